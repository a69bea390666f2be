"""Merges that are tried: weights of a pool by method and options, made in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from taskloom.errors import PlanError
from taskloom.merging.api import merge_files
from taskloom.merging.executor import execute, plan_merge
from taskloom.merging.lowrank import merge_adapters
from taskloom.merging.recipe import Recipe
from taskloom.progress import Progress, silent
from taskloom.runs.line import Line, is_linear
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.pool import Pool
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

_SCALE = "scale"


class Merges:
    """Call it with a method and its options; what comes back is by stored name.

    Of a method that is linear in ``scale`` the rest is merged once and moved along the line, as long as
    nothing but the scale changes. A rule for the factors of adapters gives what the merged adapter
    changes. Random numbers have the method's own seed, so that what was tried is what is written.

    Parameters
    ----------
    pool
        With a base.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._line: tuple[tuple[str, str], Line] | None = None

    def __call__(self, method: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Return merged weights.

        Raises
        ------
        UnknownName, PlanError
            As `taskloom.merge`; a method that needs statistics of the experts.
        """
        recipe = Recipe.of(method, **options)
        if recipe.chain.needs:
            kinds = ", ".join(need.kind for need in recipe.chain.needs)
            raise PlanError(
                f"{method} needs statistics of the experts ({kinds}), and a search over merges has none",
                hint="Take another method, or sweep its options in a plan",
            )
        if recipe.chain.space == "factors":
            return self._factors(recipe)
        merged = self._merged(method, options, recipe)
        aliases: Mapping[str, str] = getattr(self._pool.yardstick, "aliases", {})
        return {**merged, **{alias: merged[name] for alias, name in aliases.items()}}

    def _merged(self, method: str, options: Mapping[str, Any], recipe: Recipe) -> Mapping[str, Tensor]:
        rest = {name: value for name, value in options.items() if name != _SCALE}

        def at(scale: float) -> Recipe:
            return Recipe.of(method, **{**rest, _SCALE: scale})

        if _SCALE not in options or self._pool.base is None or not is_linear(at, _SCALE):
            return dict(execute(plan_merge(self._pool, recipe.chain)))
        key = method, repr(sorted(rest.items()))
        if self._line is None or self._line[0] != key:
            self._line = None  # the old one's weights go before the new one's come
            self._line = key, Line(self._pool, at, _SCALE)
        return self._line[1].at(float(options[_SCALE]))

    def _factors(self, recipe: Recipe) -> Mapping[str, Tensor]:
        with TemporaryDirectory() as folder:
            target = Path(folder) / "adapter"
            base = _place(self._pool)
            merge_adapters(base, {e.name: e for e in self._pool.experts}, recipe, target)
            merged = AdapterCheckpoint(target, SafetensorsCheckpoint(base))
            return {name: merged.read(name).clone() for name in merged.tensors}


def write_recipe(
    pool: Pool,
    method: str,
    options: Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Path | str:
    """Write what a recipe makes of a pool: a model, or an adapter where the rule is for adapters only.

    Raises
    ------
    OutputError
        The output exists or cannot be written.
    UnknownName, PlanError, CheckpointError, NumericalError
        As `taskloom.merge_files` and `taskloom.merge_adapters`.
    """
    experts = {expert.name: expert for expert in pool.experts}
    if Recipe.of(method, **options).chain.space == "factors":
        report = merge_adapters(
            _place(pool), experts, method, output, overwrite=overwrite, progress=progress, **options
        )
        return report.path
    return merge_files(
        _place(pool), experts, method, Path(output), overwrite=overwrite, progress=progress, **options
    ).path


def _place(pool: Pool) -> Path:
    """Return where the base lies."""
    path = getattr(pool.base, "path", None)
    if path is None:
        raise PlanError(
            "the base is in memory, and adapters are merged from files", hint="Give its path"
        )
    return Path(path)
