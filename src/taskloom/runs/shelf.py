"""What YAML files declare: those that come with the package by name, those of a user by path."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from taskloom.errors import UnknownName
from taskloom.runs.plan import read_yaml


@dataclass(frozen=True)
class Shelf:
    """A folder of the package with a YAML file for every name.

    Attributes
    ----------
    kind
        What one of the files declares, for messages.
    package, folder
        Where they lie.
    """

    kind: str
    package: str
    folder: str

    def names(self) -> list[str]:
        """Return the names of the files, sorted.

        >>> Shelf("plan", "taskloom.runs", "plans").names()
        ['demo', 'small']
        """
        files = (resources.files(self.package) / self.folder).iterdir()
        return sorted(f.name[:-5] for f in files if f.name.endswith(".yaml"))

    def read(self, name_or_path: str | Path) -> tuple[Any, str]:
        """Return the content of the file of that name, or of any YAML file, and what messages call it.

        Raises
        ------
        UnknownName
            Neither a name nor a path that ends like one of a YAML file; offers the nearest name.
        PlanError
            The file is missing, not UTF-8 or not YAML.
        """
        path = Path(name_or_path)
        if isinstance(name_or_path, str) and name_or_path in self.names():
            path = Path(str(resources.files(self.package) / self.folder / f"{name_or_path}.yaml"))
        elif path.suffix not in (".yaml", ".yml"):
            raise UnknownName(self.kind, str(name_or_path), self.names())
        where = f"{self.kind} {str(name_or_path)!r}"
        return read_yaml(path, where)[0], where
