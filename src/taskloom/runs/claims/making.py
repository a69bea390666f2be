"""From a recipe and a pool to the weights of every task: merged, merged as adapters, or as parts.

`Settings` are what a scale is chosen from; what was merged to choose is not merged again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from taskloom.merging.executor import execute, plan_merge
from taskloom.merging.lowrank import merge_adapters
from taskloom.merging.parts import merge_parts
from taskloom.merging.recipe import Recipe
from taskloom.merging.restore import open_task
from taskloom.merging.statistics import Statistics
from taskloom.registry import get
from taskloom.runs.candidates import read_all
from taskloom.runs.claims.stage import Stage
from taskloom.runs.line import Line
from taskloom.store.open import open_checkpoint

Weights = Mapping[str, Tensor]
#: the option that names the task of which parts are wanted
TASK = "task"


@dataclass(frozen=True)
class Made:
    """What a recipe gives.

    Attributes
    ----------
    weights
        The weights to run a task with; all tensors that differ from the base's.
    seconds
        Of the merge.
    stored_bytes
        Of all that must be kept to run every task.
    """

    weights: Callable[[str], Weights]
    seconds: float
    stored_bytes: int


def make(stage: Stage, count: int, recipe: Recipe, known: Statistics | None, folder: Path) -> Made:
    """Merge the first ``count`` experts of a stage.

    Methods that keep parts of tasks (they have an option ``task``) give every task its own weights,
    restored from the parts in ``folder``. Rules for the factors of adapters merge the adapters.
    Everything else is merged in memory.

    Parameters
    ----------
    folder
        An empty folder, which must outlive the result.

    Raises
    ------
    PlanError, CheckpointError, NumericalError
        The recipe has no rule for these experts.
    """
    if keeps_parts(recipe.method):
        return _parts(stage, count, recipe, folder)
    if recipe.chain.space == "factors":
        return _adapters(stage, count, recipe, folder)
    pool = stage.first(count)
    begun = time.perf_counter()
    with torch.inference_mode():
        merged = dict(execute(plan_merge(pool, recipe.chain, statistics=known)))
    return Made(lambda _: merged, time.perf_counter() - begun, stage.base_bytes)


def keeps_parts(method: str) -> bool:
    """Tell whether a method makes a model for each task, as `merge_parts` keeps them."""
    return TASK in get("merge", method).schema.model_fields


def _parts(stage: Stage, count: int, recipe: Recipe, folder: Path) -> Made:
    pool, target = stage.first(count), folder / "parts"
    options = {name: value for name, value in recipe.options.items() if name != TASK}
    begun = time.perf_counter()
    report = merge_parts(pool.yardstick, pool.experts, recipe.method, target, overwrite=True, **options)
    seconds = time.perf_counter() - begun

    def weights(task: str) -> Weights:
        return read_all(open_task(target, task, pool.base))

    return Made(weights, seconds, report.bytes_stored + stage.kept_bytes)


def _adapters(stage: Stage, count: int, recipe: Recipe, folder: Path) -> Made:
    pool, target = stage.first_stored(count), folder / "adapter"
    begun = time.perf_counter()
    report = merge_adapters(pool.yardstick, pool.experts, recipe, target, overwrite=True)
    seconds = time.perf_counter() - begun
    merged = read_all(open_checkpoint(target, base=pool.base))
    return Made(lambda _: merged, seconds, stage.base_bytes + report.adapter_bytes)


class Settings(Protocol):
    """Merges at the settings of one option."""

    def tasted(self, setting: float) -> Callable[[str], Weights]:
        """Return what validation looks at: task -> weights."""
        ...

    def made(self, setting: float) -> Made:
        """Return the merge at a setting, as `make` gives it."""
        ...


def settings_of(
    stage: Stage,
    count: int,
    recipe: Callable[[float], Recipe],
    known: Statistics | None,
    folder: Path,
) -> Settings:
    """Return the merges of the first ``count`` experts at any scale; arguments as `make`.

    Where they lie on a line there is one merge, and validation walks along it.
    """
    first = recipe(1.0)
    if first.chain.space != "factors" and not keeps_parts(first.method):
        line = Line(stage.first(count), recipe, "scale", known)
        if line.straight:
            return _Along(line, stage.base_bytes)
    return _Apart(lambda s: make(stage, count, recipe(s), known, folder / f"scale-{s:g}"))


@dataclass(frozen=True)
class _Along:
    """Merges on one line."""

    line: Line
    stored_bytes: int

    def tasted(self, setting: float) -> Callable[[str], Weights]:
        found = self.line.at(setting)
        return lambda _: found

    def made(self, setting: float) -> Made:
        found = self.line.exact(setting)
        return Made(lambda _: found, self.line.seconds, self.stored_bytes)


class _Apart:
    """Merges that are made one by one, each once."""

    def __init__(self, make: Callable[[float], Made]) -> None:
        self._make = make
        self._known: dict[float, Made] = {}

    def tasted(self, setting: float) -> Callable[[str], Weights]:
        return self.made(setting).weights

    def made(self, setting: float) -> Made:
        if setting not in self._known:
            self._known[setting] = self._make(setting)
        return self._known[setting]
