"""The loss of a batch: a registered objective, given what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from taskloom.errors import DataError
from taskloom.learn.coefficients.blend import stored_names
from taskloom.learn.needs import EXPERT, check_needs, classifies, given, uses_labels
from taskloom.learn.problem import Problem
from taskloom.registry import get

#: task -> logits of its own expert, batch by batch
Taught = Mapping[str, list[Tensor]]


@dataclass(frozen=True, eq=False)
class Loss:
    """An objective with its options, and what its experts say of the batches.

    Attributes
    ----------
    on
        Whose batches are judged.
    name
        Of the objective.
    needs
        ``labels``, ``pairs``, ``expert logits``.
    function
        (logits, whatever it needs) -> a number.
    taught
        What the experts say, if it is needed.
    """

    on: Problem
    name: str
    needs: tuple[str, ...]
    function: Callable[..., Tensor]
    taught: Taught

    @classmethod
    def of(cls, on: Problem, name: str, options: Mapping[str, Any], batches: int) -> Loss:
        """Look an objective up, and run the experts it needs over the batches it will see.

        Parameters
        ----------
        batches
            Of every task that are seen at most.

        Raises
        ------
        UnknownName, PlanError
            No such objective, or an option that does not fit it.
        DataError
            A task without an expert of its own, where the objective needs one.
        """
        entry = get("objective", name)
        checked, function = entry.validate(dict(options)), entry.function
        check_needs(name, entry.needs)
        taught = {}
        if EXPERT in entry.needs:
            taught = {task: expert_logits(on, task, batches, why=name) for task in on.tasks}
        return cls(on, name, entry.needs, lambda *parts: function(*parts, **checked), taught)

    def __call__(self, task: str, place: int, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss of a batch, by its place among the task's batches."""
        expert = self.taught[task][place] if EXPERT in self.needs else None
        more = given(self.on, task, self.needs, logits, labels, expert, why=self.name)
        return self.function(logits, *more)

    @property
    def labelled(self) -> bool:
        """Whether labels are used."""
        return uses_labels(self.needs)

    @property
    def classifies(self) -> bool:
        """Whether the model's output is taken for logits of classes."""
        return classifies(self.needs)


def expert_logits(on: Problem, task: str, batches: int, *, why: str) -> list[Tensor]:
    """Return what a task's own expert says of its batches, run once.

    Parameters
    ----------
    batches
        Most that are run.
    why
        What needs them, for the message.

    Raises
    ------
    DataError
        The task has no expert of its own.
    """
    if task not in on.own:
        raise DataError(
            f"task {task!r}: {why} compares with the expert of the task, and none is known",
            hint="Say in 'own' (--own TASK=EXPERT) which it is, or take an objective without experts",
        )
    probe, expert = on.probes[task], on.experts[on.own[task]]
    stored = stored_names(probe, on.base)
    read = {
        name: expert.read(name).detach()
        for name in dict.fromkeys(stored.values())
        if on.base.tensors[name].is_float
    }
    dtypes = {stored[name]: weight.dtype for name, weight in probe.weights.items() if name in stored}
    read = {name: weight.to(dtypes[name]) for name, weight in read.items()}
    weights = {name: read[place] for name, place in stored.items() if place in read}
    with torch.no_grad():
        return [probe.logits(inputs, weights) for inputs, _ in islice(on.batches[task], batches)]
