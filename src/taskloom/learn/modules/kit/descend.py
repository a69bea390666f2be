"""The loop that fits a module: Adam, a trace, and a stop that keeps the last good numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from taskloom.errors import NumericalError
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.progress import Progress, silent

#: step, counted from 0 -> task and loss, one after the other
Losses = Callable[[int], Iterable[tuple[str, Tensor]]]
#: trace -> the module at the parameters as they are
Build = Callable[[tuple[Step, ...]], FittedModule]


class ModuleStopped(NumericalError):
    """A loss that is not finite stopped a fit.

    Attributes
    ----------
    fitted
        The module with the last good numbers, and the trace until then.
    """

    def __init__(self, message: str, fitted: FittedModule, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fitted = fitted


@dataclass(frozen=True)
class Descent:
    """How the loss is descended.

    Attributes
    ----------
    steps, learning_rate
        Of Adam, with its usual moments.
    schedule, warmup
        Of the learning rate: to 0 at the end unless constant, after as many steps of rising to it.
    weight_decay
        Decoupled, as in AdamW.
    together
        One step down the sum over tasks; otherwise a step after each task.
    rates
        Learning rates of some parameters by name, instead of ``learning_rate``.
    """

    steps: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    together: bool = True
    rates: Mapping[str, float] = field(default_factory=dict)

    def share(self, done: int) -> float:
        """Return the share of the learning rate after as many steps.

        >>> [Descent(4, 1.0, "linear").share(n) for n in range(4)]
        [1.0, 0.75, 0.5, 0.25]
        """
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        rest = (done - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "linear":
            return max(0.0, 1.0 - rest)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, rest))) if self.schedule == "cosine" else 1.0


def descend(
    parameters: Mapping[str, Tensor],
    losses: Losses,
    build: Build,
    how: Descent,
    *,
    name: str,
    progress: Progress = silent,
    watch: Callable[[int], None] | None = None,
) -> FittedModule:
    """Move parameters down the gradient, in place, and build the module from them.

    Parameters
    ----------
    parameters
        Leaves that require grad.
    losses
        Computes the loss of every task, lazily: the graph of one is freed before the next.
    build
        Makes the module of the parameters as they are and of the trace.
    name
        Of the module, for messages.
    watch
        Called after each step, with how many are done.

    Raises
    ------
    ModuleStopped
        A loss that is not finite; it carries the module of the last step whose loss was.
    """
    groups = [
        {"params": [tensor], "lr": how.rates.get(key, how.learning_rate)}
        for key, tensor in parameters.items()
    ]
    adam = torch.optim.AdamW(groups, weight_decay=how.weight_decay)
    pace = torch.optim.lr_scheduler.LambdaLR(adam, how.share)
    good = _copied(parameters)
    trace: list[Step] = []
    begun = time.perf_counter()
    for step in range(how.steps):
        values: dict[str, float] = {}
        before = _copied(parameters)
        for task, loss in losses(step):
            number = float(loss.detach())
            if not math.isfinite(number):
                _restore(parameters, good)
                raise ModuleStopped(
                    f"{name}: the loss of task {task!r} is {number} at step {step + 1}; the module with "
                    f"the numbers of {max(step - 1, 0)} steps is kept in the error's 'fitted'",
                    build(tuple(trace)),
                    hint="Lower learning_rate, or check the weights and the inputs of the task",
                )
            loss.backward()  # type: ignore[no-untyped-call]
            values[f"loss {task}"] = values.get(f"loss {task}", 0.0) + number
            if not how.together:
                adam.step()
                adam.zero_grad()
        adam.step()  # a step after each task has left no gradients
        adam.zero_grad()
        pace.step()
        good = before
        seconds = time.perf_counter() - begun
        trace.append(Step(step=step + 1, loss=sum(values.values()), seconds=seconds, values=values))
        progress(name, step + 1, how.steps)
        if watch is not None:
            watch(step + 1)
    return build(tuple(trace))


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in parameters.items()}


def _restore(parameters: Mapping[str, Tensor], good: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, tensor in parameters.items():
            tensor.copy_(good[key])
