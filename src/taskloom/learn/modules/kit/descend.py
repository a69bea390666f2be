"""The loop that fits a module: an optimiser, a trace, and a stop that keeps the last good numbers.

Where the problem has a folder for unfinished fits, the state is kept there until the fit ends, and the
same call goes on from it to the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom.errors import NumericalError
from taskloom.learn.coefficients.unfinished import Stand, Unfinished
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.problem import Problem
from taskloom.store.cache import canonical_digest

#: step, counted from 0 -> task and loss, one after the other
Losses = Callable[[int], Iterable[tuple[str, Tensor]]]
#: trace -> the module at the parameters as they are
Build = Callable[[tuple[Step, ...]], FittedModule]


class ModuleStopped(NumericalError):
    """A loss or a gradient that is not finite stopped a fit.

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
        Of Adam, with its usual moments; or of plain gradient descent.
    schedule, warmup
        Of the learning rate: to 0 at the end unless constant, after as many steps of rising to it.
    weight_decay
        Of Adam; decoupled, as in AdamW.
    together
        One step down the sum over tasks; otherwise a step after each task.
    rates
        Learning rates of some parameters by name, instead of ``learning_rate``.
    rule
        ``"adam"``, or ``"gradient"``: the learning rate times the gradient and nothing else.
    """

    steps: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    together: bool = True
    rates: Mapping[str, float] = field(default_factory=dict)
    rule: Literal["adam", "gradient"] = "adam"

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


@dataclass(frozen=True)
class Beyond:
    """What a fit hangs on besides its parameters: what was best so far, running means, a generator.

    Attributes
    ----------
    save
        Returns tensors by name, and JSON-ready data.
    resume
        Takes the same back.
    """

    save: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]
    resume: Callable[[Mapping[str, Tensor], Mapping[str, Any]], None]


def descend(
    parameters: Mapping[str, Tensor],
    losses: Losses,
    build: Build,
    how: Descent,
    *,
    name: str,
    on: Problem,
    watch: Callable[[int], None] | None = None,
    beyond: Beyond | None = None,
) -> FittedModule:
    """Move parameters down the gradient, in place, and build the module from them.

    Parameters
    ----------
    parameters
        Leaves that require grad.
    losses
        Computes the loss of every task, lazily: the graph of one is freed before the next. What it draws
        hangs on the step alone, or on what ``beyond`` keeps.
    build
        Makes the module of the parameters as they are and of the trace.
    name
        Of the module, for messages.
    on
        Who is told how far it is, and where the state of an unfinished fit is kept: nowhere unless
        `Problem.fitting` says what is fitted.
    watch
        Called after each step, with how many are done.
    beyond
        What else the next step hangs on.

    Raises
    ------
    ModuleStopped
        A loss or a gradient that is not finite; it carries the module of the last step before which
        both were.
    IntegrityError
        The state of an unfinished fit is damaged.
    """
    fit = _Fit(parameters, how, beyond)
    kept = _unfinished(on, name, how, parameters)
    stand = kept.load()
    if stand is not None:
        fit.go_back(stand)
    try:
        while len(fit.trace) < how.steps:
            try:
                values = fit.step(losses)
            except _NotFiniteError as error:
                raise _stopped(name, error, fit, build, on.spoilt()) from None
            fit.note(values)
            if watch is not None:
                watch(len(fit.trace))
            kept.save_in_time(fit.stand)
            on.progress(name, len(fit.trace), how.steps)
    except ModuleStopped:
        kept.end()
        raise
    except BaseException:
        if kept.kept and fit.whole:
            kept.save(fit.stand())
        raise
    found = _told(build(tuple(fit.trace)), fit)
    kept.end()
    return found


def _stopped(name: str, error: _NotFiniteError, fit: _Fit, build: Build, fault: str) -> ModuleStopped:
    """Return the error of what is not finite, with the last good module; ``fault`` is why."""
    step = len(fit.trace)
    fit.restore()
    hint = "Repair it, or leave it out" if fault else "Lower learning_rate, or check the task's inputs"
    if step > 1:
        hint += f"; the module of step {step - 1} is kept"
    said = f"{name}: the {error} at step {step + 1}"
    module = _told(build(tuple(fit.trace)), fit)
    return ModuleStopped(f"{said}, and {fault}" if fault else said, module, hint=hint)


class _NotFiniteError(Exception):
    """What is not finite, in words."""


class _Fit:
    """Parameters on their way down, with all that the next step hangs on."""

    def __init__(self, parameters: Mapping[str, Tensor], how: Descent, beyond: Beyond | None) -> None:
        self._parameters, self._how, self._beyond = parameters, how, beyond
        groups = [
            {"params": [tensor], "lr": how.rates.get(key, how.learning_rate)}
            for key, tensor in parameters.items()
        ]
        self._optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(groups)
            if how.rule == "gradient"
            else torch.optim.AdamW(groups, weight_decay=how.weight_decay)
        )
        self._pace = torch.optim.lr_scheduler.LambdaLR(self._optimiser, how.share)
        self._good = _copied(parameters)
        self._begun = time.perf_counter()
        self.trace: list[Step] = []
        self.resumed: list[int] = []
        #: no step is half done
        self.whole = True

    def step(self, losses: Losses) -> dict[str, float]:
        """Move down once; return the losses by task."""
        self.whole = False
        values: dict[str, float] = {}
        before = _copied(self._parameters)
        for task, loss in losses(len(self.trace)):
            number = float(loss.detach())
            if not math.isfinite(number):
                raise _NotFiniteError(f"loss of task {task!r} is {number}")
            loss.backward()  # type: ignore[no-untyped-call]
            for key, tensor in self._parameters.items():
                if tensor.grad is not None and not bool(tensor.grad.isfinite().all()):
                    raise _NotFiniteError(f"gradient of task {task!r} by {key!r} holds NaN or infinity")
            values[f"loss {task}"] = values.get(f"loss {task}", 0.0) + number
            if not self._how.together:
                self._optimiser.step()
                self._optimiser.zero_grad()
        self._optimiser.step()  # a step after each task has left no gradients
        self._optimiser.zero_grad()
        self._pace.step()
        self._good = before
        return values

    def note(self, values: Mapping[str, float]) -> None:
        """Put a step that was made into the trace."""
        seconds = time.perf_counter() - self._begun
        self.trace.append(Step(len(self.trace) + 1, sum(values.values()), seconds, dict(values)))
        self.whole = True

    def restore(self) -> None:
        """Put the last good numbers back."""
        with torch.no_grad():
            for key, tensor in self._parameters.items():
                tensor.copy_(self._good[key])

    def stand(self) -> Stand:
        """Return all that the next step hangs on."""
        tensors = {f"now/{key}": tensor.detach() for key, tensor in self._parameters.items()}
        tensors |= {f"good/{key}": tensor for key, tensor in self._good.items()}
        for key, tensor in self._parameters.items():
            for what, value in self._optimiser.state.get(tensor, {}).items():
                tensors[f"adam/{what}/{key}"] = value
        plain: dict[str, Any] = {
            "pace": self._pace.last_epoch,
            "seconds": time.perf_counter() - self._begun,
            "resumed": self.resumed,
            "beyond": None,
        }
        if self._beyond is not None:
            more, plain["beyond"] = self._beyond.save()
            tensors |= {f"beyond/{key}": tensor for key, tensor in more.items()}
        return Stand({key: t.clone() for key, t in tensors.items()}, plain, tuple(self.trace))

    def go_back(self, stand: Stand) -> None:
        """Stand where a fit stood that was interrupted."""
        tensors, plain = stand.tensors, stand.plain
        with torch.no_grad():
            for key, tensor in self._parameters.items():
                tensor.copy_(tensors[f"now/{key}"])
                moments = {
                    what: tensors[f"adam/{what}/{key}"]
                    for what in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam/{what}/{key}" in tensors
                }
                if moments:
                    self._optimiser.state[tensor] = moments
        self._good = {key: tensors[f"good/{key}"] for key in self._parameters}
        self._pace.last_epoch = plain["pace"]
        for group, base in zip(self._optimiser.param_groups, self._pace.base_lrs, strict=True):
            group["lr"] = base * self._how.share(plain["pace"])
        if self._beyond is not None:
            more = {k.removeprefix("beyond/"): t for k, t in tensors.items() if k.startswith("beyond/")}
            self._beyond.resume(more, plain["beyond"])
        self.trace = list(stand.trace)
        self._begun -= plain["seconds"]
        self.resumed = [*plain["resumed"], len(self.trace)]


def _unfinished(on: Problem, name: str, how: Descent, parameters: Mapping[str, Tensor]) -> Unfinished:
    """Return the file of a fit; nothing is kept where nobody said what is fitted."""
    if on.unfinished is None or not on.fitting:
        return Unfinished(None, "")
    shapes = {key: list(tensor.shape) for key, tensor in parameters.items()}
    key = canonical_digest([on.fitting, name, asdict(how), shapes])
    return Unfinished(on.unfinished / f"{name}-{key[:32]}.safetensors", key)


def _told(fitted: FittedModule, fit: _Fit) -> FittedModule:
    """Say where a fit was taken up again, if it was."""
    if not fit.resumed:
        return fitted
    after = ", ".join(map(str, fit.resumed))
    return replace(fitted, said={**fitted.said, "resumed": f"after step {after}"})


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in parameters.items()}
