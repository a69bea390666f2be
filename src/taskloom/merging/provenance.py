"""``taskloom.json``: what a merge was made of, so that it can be checked and made again."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from taskloom import __version__
from taskloom.merging.build import Built, checkpoint_digest
from taskloom.merging.plan import MergePlan
from taskloom.merging.recipe import Recipe
from taskloom.store.atomic import write_json
from taskloom.store.cache import canonical_digest, file_digest
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

FILE = "taskloom.json"
_FORMAT = 1


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe with all its options, those left at their defaults too."""
    from taskloom import registry
    from taskloom.errors import UnknownName

    options = recipe.plain()
    try:
        fields = registry.get("merge", recipe.method).schema.model_fields
        defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
        options = defaults | options
    except UnknownName:  # a chain of one's own
        pass
    return {"method": recipe.method, "options": options, "composition": str(recipe.chain)}


def write_record(
    folder: Path, plan: MergePlan, built: Built, inputs: list[dict[str, Any]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``taskloom.json`` into a folder that is otherwise complete; return it.

    Parameters
    ----------
    folder
        The model.
    plan, built
        What was planned and made.
    inputs
        From `taskloom.merging.inputs.InputDigests.describe`.
    more
        ``recipe``, ``sources``, ``seed``, ``seconds`` and the like, added as they are.
    """
    infos = plan.program.infos
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            entry: dict[str, Any] = {"bytes": path.stat().st_size}
            if path.suffix == ".safetensors" and path.parent == folder:  # heads are in folders below
                names = SafetensorsCheckpoint(path).tensors
                entry["header_sha256"] = header_digest(path)
                if built.tensors:
                    entry["digest"] = checkpoint_digest(
                        SafetensorsCheckpoint(path), {name: built.tensors[name] for name in names}
                    )
            else:
                entry["sha256"] = file_digest(path)
            files[path.relative_to(folder).as_posix()] = entry
    table = {
        "format": _FORMAT,
        **more,
        "inputs": inputs,
        "outputs": {
            "digest": output_digest(plan, built),
            "files": files,
            "tensors": {
                name: {"sha256": built.tensors[name]} if built.tensors else {} for name in infos
            },
        },
        "statistics": built.statistics,
        "reads": plan.reads,
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "versions": versions(),
    }
    write_json(folder / FILE, table)
    return table


def header_digest(path: Path) -> str:
    """Return the SHA-256 of the header of a safetensors file, with its length and its padding."""
    with path.open("rb") as stream:
        length = stream.read(8)
        return hashlib.sha256(length + stream.read(int.from_bytes(length, "little"))).hexdigest()


def output_digest(plan: MergePlan, built: Built) -> str:
    """Return the digest of the merged weights, empty if none was wanted."""
    if not built.tensors:
        return ""
    from taskloom.store.digest import combine_digests

    return combine_digests((n, info, built.tensors[n]) for n, info in plan.program.infos.items())


def recipe_hash(record: Mapping[str, Any]) -> str:
    """Return the digest of a recipe's record."""
    return canonical_digest(dict(record))


def versions() -> dict[str, str]:
    """Return the versions of what may have computed, used in this run or not."""
    found = {"taskloom": __version__, "python": platform.python_version()}
    for package in ("numpy", "torch", "numba", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
