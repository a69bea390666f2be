"""One look-up over a result: labels, scores, means; the charts and tables ask it, never the lists."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from taskloom.runs.result import GuardRecord, ModelRecord, RunResult, ScoreRecord, TaskRecord

KIND_ORDER = {"base": 0, "expert": 1, "merge": 2}


@dataclass(frozen=True)
class Mean:
    """The mean test score of a model over pool tasks, with a 95 % interval."""

    value: float
    low: float
    high: float
    n: int  # test examples behind it, over all tasks
    tasks: int


@dataclass(frozen=True)
class Gain:
    """A model's test score minus the base's on one task."""

    task: TaskRecord
    value: float
    clear: bool  # the two 95 % intervals do not overlap


class Index:
    """Answers questions about one result.

    Parameters
    ----------
    result
        The run to report on.
    """

    def __init__(self, result: RunResult) -> None:
        self.result = result
        self.models = {model.name: model for model in result.models}
        self.tasks = {task.name: task for task in result.tasks}
        self.pool_tasks = [task for task in result.tasks if task.role == "pool"]
        self.target_tasks = [task for task in result.tasks if task.role == "target"]
        self._scores = {(s.model, s.task, s.split): s for s in result.scores}
        self._model_titles = Counter(model.title for model in result.models)
        self._task_titles = Counter(task.title for task in result.tasks)

    def label(self, name: str) -> str:
        """Return what a reader calls a model: its title, with the name when titles repeat."""
        model = self.models.get(name)
        if model is None:
            return name
        if self._model_titles[model.title] > 1 and model.title != name:
            return f"{model.title} ({name})"
        return model.title or name

    def task_label(self, name: str) -> str:
        """Return what a reader calls a task: its title, with the name when titles repeat."""
        task = self.tasks.get(name)
        if task is None:
            return name
        if self._task_titles[task.title] > 1 and task.title != name:
            return f"{task.title} ({name})"
        return task.title or name

    def any_label(self, name: str) -> str:
        """Return the label of a model or a task; an unknown name stands for itself."""
        return self.label(name) if name in self.models else self.task_label(name)

    def score(self, model: str, task: str) -> ScoreRecord | None:
        """Return the test score of a model on a task; None when it is missing or not finite."""
        found = self._scores.get((model, task, "test"))
        if found is None or not all(map(math.isfinite, (found.value, found.low, found.high))):
            return None
        return found

    def scored_tasks(self) -> list[TaskRecord]:
        """Return the tasks with at least one test score: pool first, then targets."""
        seen = {s.task for s in self.result.scores if s.split == "test"}
        return [task for task in (*self.pool_tasks, *self.target_tasks) if task.name in seen]

    def mean(self, model: str) -> Mean | None:
        """Return the mean over the pool tasks that the model was scored on.

        The interval recovers the variance of each score from its own limits and adds them as
        independent: low = mean - sqrt(sum (value - low)^2) / T, and likewise above (MOVER; Zou and
        Donner, "Construction of confidence limits about effect measures", 2008, section 2).
        """
        scores = [s for task in self.pool_tasks if (s := self.score(model, task.name)) is not None]
        if not scores:
            return None
        size = len(scores)
        value = math.fsum(s.value for s in scores) / size
        below = math.sqrt(math.fsum((s.value - s.low) ** 2 for s in scores)) / size
        above = math.sqrt(math.fsum((s.high - s.value) ** 2 for s in scores)) / size
        n = sum(s.n for s in scores)
        return Mean(value=value, low=value - below, high=value + above, n=n, tasks=size)

    @cached_property
    def ranked(self) -> list[tuple[ModelRecord, Mean]]:
        """Models with a mean: those scored on more tasks first, then the higher mean."""
        found = [(m, mean) for m in self.result.models if (mean := self.mean(m.name)) is not None]
        return sorted(
            found,
            key=lambda pair: (-pair[1].tasks, -pair[1].value, KIND_ORDER[pair[0].kind], pair[0].name),
        )

    @cached_property
    def base(self) -> ModelRecord | None:
        """The base model, if the run scored one."""
        return next((m for m in self.result.models if m.kind == "base"), None)

    @cached_property
    def refused(self) -> set[str]:
        """Names of models refused for the pool (for any target when the pool has no verdict)."""
        return {name for guard in self._verdicts for name in guard.refused}

    @cached_property
    def winners(self) -> set[str]:
        """Names of models chosen for the pool (for any target when the pool has no verdict)."""
        return {guard.winner for guard in self._verdicts}

    @cached_property
    def _verdicts(self) -> list[GuardRecord]:
        guards = self.result.guards
        return [guard for guard in guards if guard.scope == "pool"] or guards

    def gains(self, model: str) -> list[Gain]:
        """Return the model's gains over the base, one for each task on which both were scored."""
        if self.base is None:
            return []
        found = []
        for task in self.scored_tasks():
            own, base = self.score(model, task.name), self.score(self.base.name, task.name)
            if own is not None and base is not None:
                clear = own.low > base.high or own.high < base.low
                found.append(Gain(task=task, value=own.value - base.value, clear=clear))
        return found
