"""``taskloom.merge`` and ``taskloom.merge_files``: the stable calls other libraries build on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch
from taskloom.merging.executor import execute, plan_merge
from taskloom.merging.recipe import Recipe
from taskloom.progress import Progress, silent
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.open import Source
from taskloom.store.pool import Expert, Pool, open_pool
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model

#: experts in order, or by name
Experts = Sequence[Source | Expert] | Mapping[str, Source | Expert]


@dataclass(frozen=True)
class MergeReport:
    """What a merge to disk did and cost."""

    path: Path
    method: str
    options: dict[str, Any]
    composition: str
    experts: tuple[str, ...]
    reads: int
    bytes_read: int
    seconds: float
    peak_memory_bytes: int
    digest: str


def _recipe(recipe: str | Recipe, seed: int | None, options: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, str):
        return Recipe.of(recipe, seed=seed, **options)
    if not isinstance(recipe, Recipe):
        raise PlanError(
            f"expected a method's name or a Recipe, found {type(recipe).__name__}",
            hint="A chain of your own goes into Recipe('name', {}, chain)",
        )
    if options or seed is not None:
        raise PlanError("options and seed belong to a method's name; this recipe has its own already")
    return recipe


def _pool(
    base: Source | None, experts: Experts, names: Sequence[str] | None, allow_pickle: bool
) -> Pool:
    if isinstance(experts, Mapping):
        names = list(experts) if names is None else names
        experts = list(experts.values())
    return open_pool(base, experts, names=names, allow_pickle=allow_pickle)


def merge(
    base: Source | None,
    experts: Experts,
    recipe: str | Recipe = "average",
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Tensor]:
    """Merge experts of one base in memory.

    Needs torch, safetensors and numpy only. Differentiable wherever the recipe is: give ``scale`` or
    ``weights`` as tensors that require grad, or experts whose tensors do. The parameters of a module
    do: under ``torch.no_grad()`` the merge of modules keeps no graph.

    Parameters
    ----------
    base
        State dict, module, directory or hub id the experts were tuned from; None for methods that
        work on weights (average, slerp).
    experts
        Same kinds, in order; a mapping gives them names.
    recipe
        Name of a registered method, or a `Recipe`.
    names
        Names of the experts, for per-expert options and messages.
    seed
        For methods that draw random numbers.
    dtype
        Of merged tensors; the base's if None. Arithmetic is float32 (float64 for float64 inputs).
    allow_pickle
        Permit pickled checkpoints, read with ``weights_only=True``.
    progress
        Told how many tensors are done.
    **options
        Options of the method.

    Returns
    -------
    dict of str to Tensor
        Every tensor of the base, in its order, further names of tied tensors last; integer tensors
        are the base's own.

    Raises
    ------
    UnknownName, PlanError
        The method or an option does not exist or does not fit the pool.
    CheckpointError
        Keys, shapes or dtypes that differ, files that are malformed.
    NumericalError
        NaN or infinity in an input.

    Examples
    --------
    >>> base = {"w": torch.zeros(2)}
    >>> a, b = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> merge(base, [a, b], "task_arithmetic", scale=0.5)
    {'w': tensor([0.5000, 1.0000])}
    """
    pool = _pool(base, experts, names, allow_pickle)
    plan = plan_merge(pool, _recipe(recipe, seed, options).chain)
    merged = dict(execute(plan, dtype=dtype, progress=progress))
    aliases: Mapping[str, str] = getattr(pool.yardstick, "aliases", {})
    return merged | {alias: merged[name] for alias, name in aliases.items()}


def merge_files(
    base: Source | None,
    experts: Experts,
    recipe: str | Recipe,
    output: str | Path,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> MergeReport:
    """Merge like `merge`, tensor by tensor, into a directory that ``from_pretrained`` loads.

    The directory appears whole or not at all; config and tokenizer are copied from the base (from the
    first expert if there is none).

    Raises
    ------
    OutputError
        ``output`` exists (and ``overwrite`` is False), cannot be written, or the disk is full.
    """
    begun = time.perf_counter()
    chosen = _recipe(recipe, seed, options)
    pool = _pool(base, experts, names, allow_pickle)
    plan = plan_merge(pool, chosen.chain, dtype=dtype)
    source = pool.yardstick
    merged = set(plan.parameters)
    infos = {
        name: TensorInfo(info.shape, dtype) if dtype and name in merged else info
        for name, info in source.tensors.items()
    }
    template = getattr(source, "path", None)
    with torch.inference_mode():
        path = write_model(
            Path(output),
            infos=infos,
            tensors=execute(plan, dtype=dtype, progress=progress),
            template=template,
            overwrite=overwrite,
        )
    return MergeReport(
        path=path,
        method=chosen.method,
        options=chosen.plain(),
        composition=str(chosen.chain),
        experts=pool.names,
        reads=plan.reads,
        bytes_read=plan.bytes_read,
        seconds=time.perf_counter() - begun,
        peak_memory_bytes=peak_memory(),
        digest=SafetensorsCheckpoint(path).digest(),
    )


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
