"""What a candidate is worth: its merged weights run on the examples of every task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom.errors import PlanError, nearest
from taskloom.learn.needs import EXPERT, check_needs, classifies, given, uses_labels
from taskloom.learn.probe import Examples, Weights
from taskloom.learn.problem import Problem
from taskloom.learn.search.journal import Measured
from taskloom.registry import get
from taskloom.store.digest import tensor_digest

#: what becomes of the means of batches: their mean over examples, or their sum by the count of examples
Reduction = Literal["mean", "sum of means"]
#: the objective that is the share of wrong predictions
ERROR = "error"


class Scorer:
    """Losses of merged weights on a problem's examples, without gradients.

    Parameters
    ----------
    on
        The problem; its examples to fit on are what is scored.
    objective
        ``"error"``, the share of wrong predictions, or a registered objective.
    reduction
        ``"mean"`` over examples; ``"sum of means"``: of batches, divided by the number of examples.

    Raises
    ------
    UnknownName
        No such objective.
    DataError
        Labels that are needed and not there, once weights are scored.
    PlanError
        An objective that compares with a task's own expert, where a task has none, or that needs
        what a problem does not have.
    """

    def __init__(self, on: Problem, objective: str = ERROR, reduction: Reduction = "mean") -> None:
        self._on, self._name, self._reduction = on, objective, reduction
        entry = None if objective == ERROR else get("objective", objective)
        self._needs = ("labels",) if entry is None else entry.needs
        check_needs(objective, self._needs)
        self._function: Callable[..., Tensor] = _error if entry is None else entry.function
        if self.compares:
            for task in on.tasks:
                if task not in on.own:
                    raise PlanError(
                        f"task {task!r}: the objective {objective!r} compares with the task's own "
                        "expert, and it has none",
                        hint="Take another objective, or say which expert is the task's own",
                    )
        self._expert: dict[str, list[Tensor]] = {}

    @property
    def described(self) -> str:
        """Objective and reduction in words."""
        return self._name if self._reduction == "mean" else f"{self._name}, {self._reduction}"

    @property
    def labels_used(self) -> bool:
        """Whether the objective looks at labels, of classes or of pairs."""
        return uses_labels(self._needs)

    @property
    def compares(self) -> bool:
        """Whether the objective compares with each task's own expert."""
        return EXPERT in self._needs

    def __call__(self, weights: Callable[[], Weights]) -> Measured:
        """Make the weights and run them on every task.

        Parameters
        ----------
        weights
            Returns tensors by stored name; what it leaves out is the base's.
        """
        begun = time.perf_counter()
        losses, shares = {}, {}
        with torch.inference_mode():
            made = weights()
            for task, examples in self._on.batches.items():
                losses[task], share = self._task(task, examples, made)
                if classifies(self._needs):
                    shares[task] = share
        return Measured(losses, shares, time.perf_counter() - begun)

    def _task(self, task: str, examples: Examples, weights: Weights) -> tuple[float, float]:
        probe, taken, count = self._on.probes[task], 0.0, 0
        own = self._own(task) if self.compares else []
        inside = {
            name: weights[name].to(kept.dtype) for name, kept in probe.weights.items() if name in weights
        }
        seen: dict[int, int] = {}
        for number, (inputs, labels) in enumerate(examples):
            logits = probe.logits(inputs, inside)
            expert = own[number] if own else None
            more = given(self._on, task, self._needs, logits, labels, expert, why=f"{self._name!r}")
            loss = float(self._function(logits, *more))
            taken += loss * (len(logits) if self._reduction == "mean" else 1)
            count += len(logits)
            for guess in logits.argmax(-1).tolist():
                seen[guess] = seen.get(guess, 0) + 1
        return taken / count, max(seen.values()) / count

    def _own(self, task: str) -> list[Tensor]:
        """Return the logits of the task's own expert, batch by batch; they are made once."""
        if task not in self._expert:
            probe = self._on.probes[task]
            expert = self._on.experts[self._on.own[task]]
            weights = {
                name: expert.read(name).to(kept.dtype)
                for name, kept in probe.weights.items()
                if name in expert.tensors
            }
            self._expert[task] = [probe.logits(inputs, weights) for inputs, _ in self._on.batches[task]]
        return self._expert[task]


def check_preference(preference: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """Return a weight for every task, adding up to 1; equal ones if there is no preference.

    Raises
    ------
    PlanError
        A task that is not fitted on, a weight below 0 or not finite, or none above 0.
    """
    for task, weight in preference.items():
        if task not in tasks:
            guess = nearest(task, tasks)
            did = f"did you mean {guess!r}? " if guess else ""
            raise PlanError(f"the preference names {task!r}: {did}Tasks: {', '.join(tasks)}")
        if not 0 <= weight < math.inf:
            raise PlanError(
                f"the preference for {task!r} is {weight!r}, where a weight >= 0 is needed",
                hint="Give 0 to leave the task out of the choice",
            )
    wanted = {task: float(preference.get(task, 0.0)) for task in tasks} if preference else {}
    total = sum(wanted.values()) if preference else 0.0
    if preference and not total:
        raise PlanError("the preference gives no task any weight", hint="Give one a weight above 0")
    return {task: wanted[task] / total if preference else 1 / len(tasks) for task in tasks}


def preferred(preference: Mapping[str, float], losses: Mapping[str, float]) -> float:
    """Return the weighted sum of losses; tasks without weight do not enter, whatever they are.

    >>> preferred({"a": 0.25, "b": 0.75, "c": 0.0}, {"a": 1.0, "b": 2.0, "c": float("nan")})
    1.75
    """
    return sum(weight * losses[task] for task, weight in preference.items() if weight)


def _error(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) != labels).double().mean()


def context_of(on: Problem, **more: Any) -> dict[str, Any]:
    """Return what identifies a problem: weights, models, examples; and what is given beside them."""
    return {
        "base": on.base.digest(),
        "experts": {name: each.digest() for name, each in on.experts.items()},
        "examples": {task: _digest(on, task) for task in on.tasks},
        "split": on.split,
        **more,
    }


def _digest(on: Problem, task: str) -> list[Any]:
    """Return digests of the model's weights and of the examples, and the first logits, for the head.

    Logits are rounded, so that another order of additions does not make another model of it.
    """
    probe, examples = on.probes[task], on.batches[task]
    parts: list[Any] = [probe.digest]
    for number, (inputs, labels) in enumerate(examples):
        if not number:
            with torch.inference_mode():
                parts.append(probe.logits(inputs).double().mul(1000).round().long().tolist())
        given = [*(inputs.values() if isinstance(inputs, Mapping) else [inputs]), labels]
        parts += [[tensor_digest(t), *t.shape] for t in given if isinstance(t, Tensor)]
    return parts
