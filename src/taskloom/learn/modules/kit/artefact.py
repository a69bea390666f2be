"""A fitted module as it is kept: ``module.json``, and its numbers in ``module.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from taskloom import __version__
from taskloom.errors import CheckpointError, IntegrityError
from taskloom.store.atomic import atomic_directory, write_json
from taskloom.store.cache import file_digest
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import combine_digests, tensor_digest
from taskloom.store.graft import MODULE, WEIGHTS
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_safetensors

if TYPE_CHECKING:
    from taskloom.learn.fitted import Step

FORMAT = 1


@dataclass(frozen=True, eq=False)
class FittedModule:
    """A small module, fitted to sit on top of a merged model.

    Attributes
    ----------
    kind
        Its name among the registered modules.
    tensors
        Its numbers.
    layout
        What is needed to put them in place: tasks, places, sizes; JSON types only.
    options
        As it was fitted.
    trace
        Loss by step.
    said
        Where it comes from: labels used or not, examples, seconds, distances before and after.
    beside
        Writes further files into the folder when it is saved.
    bytes_beside
        Bytes of their tensors; of the files, once they are written.
    folder
        Where it was opened from; None if it is in memory only.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    layout: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    trace: tuple[Step, ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[Path], None] | None = None
    bytes_beside: int = 0
    folder: Path | None = None

    @property
    def bytes_stored(self) -> int:
        """Bytes of its tensors, and of what is beside them."""
        own = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
        return own + self.bytes_beside

    def digest(self) -> str:
        """SHA-256 (hex) over names, shapes, dtypes and bytes of its tensors."""
        return combine_digests(
            (name, TensorInfo(tuple(t.shape), t.dtype), tensor_digest(t))
            for name, t in self.tensors.items()
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        card: Callable[[Path], None] | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the folder, whole or not at all.

        Parameters
        ----------
        path
            The folder.
        overwrite
            Replace one that exists.
        card
            Writes what is about the module but no part of it into the folder, such as a model card.
        record
            More for ``module.json``, JSON types only.

        Raises
        ------
        OutputError
            The folder exists, cannot be written, or the disk is full.
        """
        infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in self.tensors.items()}
        with atomic_directory(path, overwrite=overwrite) as folder:
            pairs = ((name, tensor.detach().contiguous()) for name, tensor in self.tensors.items())
            write_safetensors(folder / WEIGHTS, infos, pairs, {"format": "pt", "module": self.kind})
            if self.beside is not None:
                self.beside(folder)
            parts = _listed(folder)
            if card is not None:
                card(folder)
            files = _listed(folder)
            table = {
                **(record or {}),
                "format": FORMAT,
                "kind": self.kind,
                "layout": self.layout,
                "options": self.options,
                "said": self.said,
                "trace": [asdict(step) for step in self.trace],
                "digest": self.digest(),
                "files": {name: each for name, each in files.items() if name in parts},
                "card": {name: each for name, each in files.items() if name not in parts},
                "version": __version__,
            }
            write_json(folder / MODULE, table)
        return Path(path)


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of every file in a folder, by its path there."""
    return {
        each.relative_to(folder).as_posix(): {
            "bytes": each.stat().st_size,
            "sha256": file_digest(each),
        }
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


def open_fitted(source: FittedModule | str | os.PathLike[str]) -> FittedModule:
    """Open what `FittedModule.save` wrote, and hold every file against its digest.

    A module in memory is returned as it is.

    Raises
    ------
    CheckpointError
        No such folder, or one that holds no module of this format.
    IntegrityError
        A file is missing or not what was written.
    """
    from taskloom.learn.fitted import Step

    if isinstance(source, FittedModule):
        return source
    folder = Path(source)
    table = _read(folder)
    for name, known in {**table["files"], **table.get("card", {})}.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != known["sha256"]:
            raise IntegrityError(
                f"{path} is {'not what was written' if path.is_file() else 'missing'}",
                hint="Fit the module again, or copy the whole folder again",
            )
    stored = SafetensorsCheckpoint(folder / WEIGHTS)
    return FittedModule(
        kind=table["kind"],
        tensors={name: stored.read(name) for name in stored.tensors},
        layout=table["layout"],
        options=table["options"],
        trace=tuple(Step(**step) for step in table["trace"]),
        said=table["said"],
        bytes_beside=sum(each["bytes"] for name, each in table["files"].items() if name != WEIGHTS),
        folder=folder,
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MODULE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise CheckpointError(
            f"{folder} holds no fitted module: {MODULE}: {reason}",
            hint="Give a folder that a fitted module was saved to",
        ) from None
    kinds = {"kind": str, "layout": dict, "options": dict, "said": dict, "trace": list, "files": dict}
    whole = isinstance(table, dict) and all(isinstance(table.get(k), t) for k, t in kinds.items())
    if not whole or table.get("format") != FORMAT or WEIGHTS not in table["files"]:
        raise CheckpointError(
            f"{path}: expected a module of format {FORMAT}, found something else",
            hint="Fit it again with this version",
        )
    found: dict[str, Any] = table
    return found
