"""Write constraints.txt from the installed environment: pins only, no hosts, no local versions.

The build backend is resolved in pip's own isolated environment, so it is not installed here; its
pins are kept from the file as it is.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
HEADER = "# Every dependency, pinned; written by `make constraints`.\n"
#: resolved by pip in the isolated build environment, never installed in .venv
BUILD = ("hatchling", "trove-classifiers")
#: part of the environment itself, or the project
NOT_PINNED = {"pip", "setuptools", "wheel", "taskloom"}


def canonical(name: str) -> str:
    """Spell a distribution's name the way PEP 503 does.

    >>> canonical("Ruamel.YAML_clib")
    'ruamel-yaml-clib'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Replace the file."""
    pins = dict(line.split("==") for line in _old_lines() if line.split("==")[0] in BUILD)
    for distribution in distributions():
        name = canonical(distribution.name)
        if name not in NOT_PINNED:
            pins[name] = distribution.version.split("+")[0]
    TARGET.write_text(HEADER + "".join(f"{n}=={v}\n" for n, v in sorted(pins.items())))


def _old_lines() -> list[str]:
    if not TARGET.exists():
        return []
    lines = TARGET.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    main()
