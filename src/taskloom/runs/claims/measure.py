"""One row of the ledger: merge, choose on validation by the one rule, and only then look at test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskloom import registry
from taskloom.errors import CheckpointError, DataError, NumericalError, PlanError
from taskloom.merging.recipe import Recipe
from taskloom.merging.soup import greedy_soup
from taskloom.registry import Entry
from taskloom.runs.candidates import Weights, read_all
from taskloom.runs.claims.choose import best_setting, check_experts, normalised_mean
from taskloom.runs.claims.composing import compose
from taskloom.runs.claims.learned import learned, row_options
from taskloom.runs.claims.making import Made, Settings, make, settings_of
from taskloom.runs.claims.results import Measured, Row
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import Stage
from taskloom.runs.claims.suite import SCALES

#: rows that are no merges
BASE, EXPERT = "base", "expert"
#: what is chosen on validation: from `SCALES`, and by the greedy soup's own rule
SCALE, INGREDIENTS = "scale", "ingredients"
#: what a method says when its rule is not defined for a pool
_NO_RULE = (PlanError, CheckpointError, NumericalError)


def options_of(entry: Entry, seed: int) -> dict[str, Any]:
    """Return the options that a method is run with, as plain data: its defaults, and the seed.

    What validation chooses is not among them, nor is the task that parts are made for.

    Raises
    ------
    PlanError
        An option has no default.
    """
    fields = entry.schema.model_fields
    given = {"seed": seed} if "seed" in fields else {}
    entry.validate(given)
    chosen = set(_chosen(entry)) | {"task"}
    plain: dict[str, Any] = entry.schema(**given).model_dump(mode="json")
    return {name: value for name, value in plain.items() if name not in chosen}


def _chosen(entry: Entry) -> list[str]:
    fields = entry.schema.model_fields
    tasted = "validation" in entry.needs and INGREDIENTS in fields
    return [SCALE] * (SCALE in fields) + [INGREDIENTS] * tasted


@dataclass
class Measurer:
    """Measures methods on the pools of one stage.

    ``memory`` keeps the accuracy of base and experts, which the rows of every count share.
    """

    stage: Stage
    scorer: Scorer
    memory: dict[tuple[str, str], float] = field(default_factory=dict)

    @cached_property
    def _base(self) -> Weights:
        return read_all(self.stage.pool.yardstick)

    def row(self, method: str, count: int) -> Row:
        """Measure ``base``, ``expert``, a merging method or a composition on ``count`` experts."""
        if method in (BASE, EXPERT):
            return self._single(method, count)
        if method in learned():
            return self._learned(method, count)
        entry = registry.get("merge", method)
        return _Merge(self, entry, count).row()

    def place(self, method: str, count: int) -> tuple[str, str, int, int, str]:
        """Return what a row is known by, options apart."""
        ground = self.stage.ground
        return ground.suite.name, self.stage.kind, ground.seed, count, method

    def options(self, method: str) -> dict[str, Any]:
        """Return the options that a method is run with; none where it cannot be run without more."""
        if method in (BASE, EXPERT):
            return {}
        try:
            if method in learned():
                return row_options(learned()[method].run, self.stage.ground.suite)
            return options_of(registry.get("merge", method), self.stage.ground.seed)
        except PlanError:
            return {}

    def blank(self, method: str, count: int) -> dict[str, Any]:
        """Return what a row says before anything is measured."""
        suite, kind, seed, _, _ = self.place(method, count)
        return {
            "suite": suite,
            "experts": kind,
            "seed": seed,
            "count": count,
            "method": method,
            "options": self.options(method),
        }

    def scores(self, count: int, weights: Callable[[str], Weights]) -> dict[str, Measured]:
        """Score weights on the test examples of the first ``count`` tasks."""
        return {
            task: Measured(value=self.scorer.test(task, weights(task)), n=self.scorer.n_test(task))
            for task in self.stage.ground.names[:count]
        }

    def own(self, method: str, task: str) -> Weights:
        """Return the base's weights, or those of the task's expert."""
        if method == BASE:
            return self._base
        (expert,) = [e for e in self.stage.pool.experts if e.name == task]
        return read_all(expert.checkpoint)

    def experts(self, count: int) -> dict[str, float]:
        """Return every expert's accuracy on the validation examples of its task."""
        found = {}
        for task in self.stage.ground.names[:count]:
            key = ("validation", task)
            if key not in self.memory:
                self.memory[key] = self.scorer.validation(task, self.own(EXPERT, task))
            found[task] = self.memory[key]
        check_experts(found)
        return found

    def _single(self, method: str, count: int) -> Row:
        found = {}
        for task in self.stage.ground.names[:count]:
            key = (method, task)
            if key not in self.memory:
                self.memory[key] = self.scorer.test(task, self.own(method, task))
            found[task] = Measured(value=self.memory[key], n=self.scorer.n_test(task))
        stage = self.stage
        kept = stage.base_bytes if method == BASE else stage.expert_bytes(count)
        blank = self.blank(method, count)
        return Row(**blank, seconds=0.0, stored_bytes=kept, scores=found)

    def _learned(self, method: str, count: int) -> Row:
        blank = self.blank(method, count)
        with tempfile.TemporaryDirectory(prefix="taskloom-claims-") as folder:
            run = learned()[method].run
            try:
                found = compose(self.stage, self.scorer, count, run, Path(folder))
            except (*_NO_RULE, DataError) as error:
                return Row(**blank, failed=" ".join(str(error).split()))
            scores = {
                task: Measured(value=found.accuracy(task), n=self.scorer.n_test(task))
                for task in self.stage.ground.names[:count]
            }
        seconds, stored = round(found.seconds, 4), found.stored_bytes
        return Row(**blank, seconds=seconds, stored_bytes=stored, scores=scores)


@dataclass
class _Merge:
    """One method on one pool."""

    measurer: Measurer
    entry: Entry
    count: int

    def row(self) -> Row:
        """Return the method's row."""
        blank = self.measurer.blank(self.entry.name, self.count)
        with tempfile.TemporaryDirectory(prefix="taskloom-claims-") as folder:
            try:
                options_of(self.entry, self.measurer.stage.ground.seed)
                self._check_rule()
                chosen, made = self._made(Path(folder))
            except _NO_RULE as error:
                return Row(**blank, failed=" ".join(str(error).split()))
            return Row(
                **blank,
                chosen=chosen,
                seconds=round(made.seconds, 4),
                stored_bytes=made.stored_bytes,
                scores=self.measurer.scores(self.count, made.weights),
            )

    def _check_rule(self) -> None:
        """Refuse a pool that the method's own needs say it has no rule for."""
        name, kind = self.entry.name, self.measurer.stage.kind
        if "adapters" in self.entry.needs and kind != "lora":
            raise PlanError(f"{name} merges the factors of LoRA adapters, and these are full fine-tunes")
        low, high = self._first().chain.experts
        if self.count < low or (high is not None and self.count > high):
            wanted = (
                str(low) if low == high else f"at least {low}" if high is None else f"{low} to {high}"
            )
            experts = "expert" if wanted == "1" else "experts"
            raise PlanError(f"{name} is defined for {wanted} {experts}, and this pool has {self.count}")

    def _first(self) -> Recipe:
        """Return the recipe at one setting of what is chosen."""
        return self._recipe({SCALE: SCALES[0]} if SCALE in _chosen(self.entry) else {})

    def _made(self, folder: Path) -> tuple[dict[str, Any], Made]:
        """Choose what is chosen, and merge with it."""
        stage = self.measurer.stage
        wanted = _chosen(self.entry)
        known = stage.statistics(self._first().chain, self.count)
        if SCALE in wanted:
            settings = settings_of(
                stage, self.count, lambda scale: self._recipe({SCALE: scale}), known, folder
            )
            scale = self._scale(settings)
            return {SCALE: scale}, settings.made(scale)
        chosen = {INGREDIENTS: self._ingredients()} if INGREDIENTS in wanted else {}
        return chosen, make(stage, self.count, self._recipe(chosen), known, folder)

    def _recipe(self, chosen: Mapping[str, Any]) -> Recipe:
        return Recipe.of(self.entry.name, seed=self.measurer.stage.ground.seed, **chosen)

    def _scale(self, settings: Settings) -> float:
        tasted: dict[float, Callable[[str], Weights]] = {}

        def accuracy(scale: float, task: str) -> float:
            if scale not in tasted:
                tasted[scale] = settings.tasted(scale)
            return self.measurer.scorer.validation(task, tasted[scale](task))

        return best_setting(SCALES, self.measurer.experts(self.count), accuracy)

    def _ingredients(self) -> list[str]:
        experts = self.measurer.experts(self.count)

        def taste(weights: Weights) -> float:
            scorer = self.measurer.scorer
            return normalised_mean({task: scorer.validation(task, weights) for task in experts}, experts)

        return list(greedy_soup(self.measurer.stage.first(self.count).experts, taste).ingredients)
