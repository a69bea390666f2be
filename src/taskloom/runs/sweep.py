"""Merges with one option chosen on validation, by one rule for every method.

The setting with the highest mean validation score over the pool's tasks wins; of equals, the smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from taskloom.evaluation.data import TaskData
from taskloom.evaluation.score import score
from taskloom.merging.recipe import Recipe
from taskloom.merging.statistics import Statistics
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress
from taskloom.runs.candidates import Candidate, merge_digest, merged
from taskloom.runs.known import batch_norm, soup_options, statistics_for
from taskloom.runs.line import Line, is_linear
from taskloom.runs.plan import Merge, Plan
from taskloom.runs.result import SweepPoint
from taskloom.runs.verdict import mean_interval
from taskloom.runs.workspace import Workspace
from taskloom.store.cache import canonical_digest
from taskloom.store.pool import Pool

#: value, low and high end of its 95 % interval, n
Measured = tuple[float, float, float, int]


@dataclass(frozen=True)
class Bench:
    """What a sweep measures with: tasks, their heads, and the encoder they run through."""

    workspace: Workspace
    encoder: Encoder
    tasks: Sequence[TaskData]
    heads: Mapping[str, Head]
    plan: Plan
    progress: Progress

    def validate(self, weights: Mapping[str, Tensor]) -> list[Measured]:
        """Return value, interval and n per task on validation."""
        options = self.plan.evaluation
        found = []
        for data in self.tasks:
            features = self.encoder.features(
                data.validation.inputs,
                weights=weights,
                batch_size=options.batch_size,
                precision=options.validation_precision,
            )
            predicted = self.heads[data.task.name].predict(features)
            labels, seed = data.validation.labels, self.plan.seed
            s = score(labels, predicted, metric=data.task.metric, split="validation", seed=seed)
            found.append((s.value, s.low, s.high, s.n))
        return found

    @property
    def digest(self) -> str:
        """Identifies tasks, heads, encoder and the precision they are run with."""
        options = self.plan.evaluation.model_dump(mode="json")
        tasks = [[data.digest, self.heads[data.task.name].digest()] for data in self.tasks]
        return canonical_digest([tasks, self.encoder.digest(), options, self.plan.seed])


def prepare_merges(pool: Pool, bench: Bench) -> tuple[list[Candidate], list[SweepPoint]]:
    """Return every merge of the plan as a candidate, its swept option chosen, and what was tried."""
    candidates, points = [], []
    items = bench.plan.merge
    for number, item in enumerate(items):
        bench.progress("choose options", number, len(items))
        known = statistics_for(pool, item.recipe(bench.plan.seed, **_first(item)).chain, bench)
        tried = _sweep(pool, item, bench, known)
        chosen: dict[str, Any] = {point.option: point.setting for point in tried if point.chosen}
        recipe = item.recipe(bench.plan.seed, **chosen, **soup_options(pool, item, bench))
        title, norm = item.name or item.method.replace("_", " "), batch_norm(item, bench)
        candidates.append(
            merged(pool, recipe, name=item.label, title=title, statistics=known, norm=norm)
        )
        points.extend(tried)
    bench.progress("choose options", len(items), len(items))
    return candidates, points


def _first(item: Merge) -> dict[str, float]:
    """Return one setting of what is swept; what a method needs does not depend on it."""
    return {option: min(settings) for option, settings in item.sweep.items()}


def _sweep(pool: Pool, item: Merge, bench: Bench, known: Statistics | None) -> list[SweepPoint]:
    points: list[SweepPoint] = []
    for option, settings in item.sweep.items():
        ordered = sorted(set(settings))
        start = merge_digest(pool, _at(item, bench, option, ordered[0]), known)
        norm = batch_norm(item, bench)
        key = [start, option, ordered, bench.digest, *([] if norm is None else [norm.digest])]
        measured: list[list[Measured]] = bench.workspace.remember(
            "sweeps",
            key,
            lambda option=option, ordered=ordered: [  # type: ignore[misc]
                bench.validate(weights)
                for weights in _settings(pool, item, bench, option, ordered, known)
            ],
        )
        means = [float(np.mean([value for value, *_ in tasks])) for tasks in measured]
        best = int(np.argmax(means))  # the first, hence smallest, of equals
        for index, (setting, tasks) in enumerate(zip(ordered, measured, strict=True)):
            low, high = mean_interval([(value, low, high) for value, low, high, _ in tasks])
            points.append(
                SweepPoint(
                    method=item.label,
                    option=option,
                    setting=setting,
                    value=means[index],
                    low=low,
                    high=high,
                    n=sum(n for *_, n in tasks),
                    chosen=index == best,
                )
            )
    return points


def _at(item: Merge, bench: Bench, option: str, setting: float) -> Recipe:
    return item.recipe(bench.plan.seed, **{option: setting})


def _settings(
    pool: Pool,
    item: Merge,
    bench: Bench,
    option: str,
    settings: Sequence[float],
    known: Statistics | None = None,
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the merged weights at each setting.

    The chosen setting of a `Line` is merged again, exactly, before it is scored. Where batch norm is
    estimated anew, every setting is a merge of its own.
    """
    norm = batch_norm(item, bench)
    if norm is not None:
        for setting in settings:
            recipe = _at(item, bench, option, setting)
            yield merged(pool, recipe, name="", title="", statistics=known, norm=norm).weights()
        return
    line = Line(pool, lambda setting: _at(item, bench, option, setting), option, known)
    for setting in settings:
        yield line.at(setting)


def _linear(item: Merge, bench: Bench, option: str) -> bool:
    return is_linear(lambda setting: _at(item, bench, option, setting), option)
