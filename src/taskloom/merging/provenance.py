"""``taskloom.json``: what a merge was made of, so that it can be checked and made again."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from taskloom import __version__
from taskloom.merging.build import Built
from taskloom.merging.plan import MergePlan
from taskloom.merging.recipe import Recipe
from taskloom.store.atomic import write_json
from taskloom.store.cache import canonical_digest, file_digest
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import combine_digests
from taskloom.store.writer import shard_header

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
        The model; its shards may be elsewhere.
    plan, built
        What was planned and made.
    inputs
        From `taskloom.merging.inputs.InputDigests.describe`.
    more
        ``recipe``, ``sources``, ``seed``, ``seconds`` and the like, added as they are.
    """
    infos = plan.program.infos
    files = {name: _shard(names, infos, built) for name, names in built.shards.items()}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files:
            files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    files = {name: files[name] for name in sorted(files)}
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


def _shard(names: Sequence[str], infos: Mapping[str, TensorInfo], built: Built) -> dict[str, Any]:
    """Return what is recorded of a file with weights, wherever it is."""
    header, size = shard_header({name: infos[name] for name in names})
    entry: dict[str, Any] = {"bytes": size, "header_sha256": hashlib.sha256(header).hexdigest()}
    if built.tensors:
        entry["digest"] = combine_digests((name, infos[name], built.tensors[name]) for name in names)
    return entry


def output_digest(plan: MergePlan, built: Built) -> str:
    """Return the digest of the merged weights, empty if none was wanted."""
    if not built.tensors:
        return ""
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
