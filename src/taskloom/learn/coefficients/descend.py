"""The loop: build the model at the coefficients, run losses backward, move the coefficients."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom import __version__
from taskloom.algebra import Chain, chain, elect, keep
from taskloom.algebra.grouped import Per
from taskloom.errors import DataError, PlanError
from taskloom.learn.coefficients.blend import Blend
from taskloom.learn.coefficients.feed import Feed
from taskloom.learn.coefficients.layout import Layout
from taskloom.learn.coefficients.loss import Loss
from taskloom.learn.coefficients.optimiser import Kind, Optimiser
from taskloom.learn.coefficients.unfinished import Stand, Unfinished
from taskloom.learn.coefficients.vectors import TaskVectors
from taskloom.learn.coefficients.watch import Watch, kept_watch
from taskloom.learn.fitted import FitStopped, Fitted, Step
from taskloom.learn.problem import TEST, Problem
from taskloom.learn.search.scorer import check_preference

#: how raw numbers become coefficients: as they are, clamped to [0, 1], or shares of a total
Shape = Literal["free", "clamp", "shares"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Descent:
    """How coefficients are learned; the same for every method.

    Attributes
    ----------
    objective, objective_options
        What is minimised, summed over tasks and their batches: a registered objective.
    per, parts, parts_seed
        What has a coefficient; see `Layout`.
    start
        Of all coefficients, or of each expert's.
    shape
        ``"clamp"`` clamps to [0, 1] in the forward pass, which stops the gradient outside;
        ``"shares"`` takes ``total`` times a softmax over the experts.
    optimizer, rate, weight_decay, schedule, clip
        ``clip`` is the largest Euclidean norm of the gradient, None for no limit.
    steps, passes
        Optimiser steps, and batches of every task for each.
    penalty
        ``penalty[0]`` times the p-norm of the coefficients, p being ``penalty[1]``; None for none.
    weights
        Factor of a task's loss; 1 where it is not named, negative to forget the task. A check on
        validation weighs the tasks' accuracies by its size. See `weights_of`.
    skip
        Experts that take no part.
    trim
        Share of entries that TIES leaves of the task vectors before they are weighed.
    check_every
        Steps between checks on validation; the coefficients with the best mean accuracy are kept.
        None does not check and keeps the last.
    threads
        That stream task vectors; as many as there are processors if None. It changes no number.
    lean
        Keep no gradient of the model; task vectors are then read for every batch. See `Blend`.
    """

    objective: str
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    per: Per = "tensor"
    parts: int = 1
    parts_seed: int = 0
    start: float | Mapping[str, float] = 0.0
    shape: Shape = "free"
    total: float = 1.0
    optimizer: Kind = "adam"
    rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    clip: float | None = None
    steps: int = 500
    passes: int = 1
    penalty: tuple[float, float] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    trim: float | None = None
    check_every: int | None = None
    threads: int | None = None
    lean: bool = False

    @property
    def before(self) -> Chain | None:
        """What the task vectors go through first, as in the merging method ``coefficients``."""
        if self.trim is None:
            return None
        return chain(keep(self.trim, "model", extra=1), elect("majority"))


def descend(on: Problem, how: Descent, *, name: str) -> Fitted:
    """Learn coefficients and return them as a recipe of the merging method ``coefficients``.

    A step builds ``theta = theta_0 + sum_k c_k tau_k`` tensor by tensor, adds up the weight gradients of
    all tasks and batches, and multiplies them with the task vectors, tensor by tensor again: the weights
    and their gradient are in memory, however many experts there are, and beside them the model's own
    weights unless the problem lends their memory.

    A problem with a folder for unfinished fits is gone on with where an earlier call was interrupted,
    to the same numbers, bit by bit.

    Parameters
    ----------
    on
        Base, experts, models and examples.
    how
        Objective, parametrisation, optimiser.
    name
        Of the method, for messages.

    Raises
    ------
    FitStopped
        A loss or a gradient that is not finite, with step and task; it holds the last good recipe.
    DataError
        Labels, or the expert of a task, that the objective needs and that are not there.
    PlanError, UnknownName
        Options that do not go together; an objective that is not registered.
    IntegrityError
        The state of an interrupted fit that is damaged.
    """
    check(on, how, name)
    begun = time.perf_counter()
    layout = Layout.of(on.names, on.base.tensors, how.per, parts=how.parts, parts_seed=how.parts_seed)
    loss = Loss.of(on, how.objective, how.objective_options, how.steps * how.passes)
    vectors = TaskVectors(
        on.base,
        on.experts,
        layout,
        skip=how.skip,
        before=how.before,
        threads=how.threads or processors(),
    )
    unfinished = Unfinished.of(on, how, name)
    with vectors, Blend(on, vectors, lean=how.lean) as blend:
        run = _Run(on, how, name, layout, loss, blend, begun)
        table = run.go(unfinished)
    return run.fitted(table)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def weights_of(prefer: Mapping[str, float] | None, tasks: Sequence[str]) -> dict[str, float]:
    """Return the factor of each task's loss that a preference stands for: 1 on average.

    Empty where all tasks count alike. A task that a preference leaves out has the factor 0, as in a
    search.

    >>> weights_of({"a": 3, "b": 1}, ["a", "b"]), weights_of({"a": 0.1, "b": 0.1}, ["a", "b"])
    ({'a': 1.5, 'b': 0.5}, {})

    Raises
    ------
    PlanError
        As `taskloom.learn.search.scorer.check_preference`.
    """
    wanted = check_preference(prefer or {}, tasks)
    if len(set(wanted.values())) == 1:
        return {}
    return {task: weight * len(wanted) for task, weight in wanted.items()}


def start_of(name: str, shape: Shape, start: float | None, *, otherwise: float, experts: int) -> float:
    """Return where the coefficients of a method start: ``otherwise`` if nothing was asked for.

    Shares of a total start equal, one K-th of it each, and take no other start.

    Raises
    ------
    PlanError
        A start was given for shares.
    """
    if shape != "shares":
        return otherwise if start is None else start
    if start is not None:
        raise PlanError(
            f"{name}: the start is {start:g}, but shares start equal, 1 / {experts} each",
            hint="Leave start out, or take shape='free' or 'clamp'",
        )
    return 1 / experts


def check(on: Problem, how: Descent, name: str) -> None:
    """Refuse what cannot be fitted before anything is read."""
    for task in how.weights:
        if task not in on.batches:
            raise PlanError(f"{name}: there is no task {task!r}", hint=f"Tasks: {', '.join(on.tasks)}")
    left = [expert for expert in on.names if expert not in how.skip]
    if not left:
        raise PlanError(
            f"{name}: every expert is left out ({', '.join(how.skip)}), and nothing can be combined",
            hint="Add experts of other tasks to the pool",
        )
    if how.check_every is not None and not on.validation:
        raise PlanError(f"{name}: there are no validation examples to check with", hint="Give some")
    if how.check_every is not None and not any(how.weights.get(task, 1.0) for task in on.validation):
        raise PlanError(
            f"{name}: no task with a weight has validation examples to check with",
            hint="Prefer a task that has some, or do not check",
        )


class _Run:
    """One fit: raw numbers, an optimiser, and what is remembered of the way."""

    def __init__(
        self,
        on: Problem,
        how: Descent,
        name: str,
        layout: Layout,
        loss: Loss,
        blend: Blend,
        begun: float,
    ) -> None:
        self._on, self._how, self._name = on, how, name
        self._layout, self._loss, self._blend, self._begun = layout, loss, blend, begun
        mask = [float(expert not in how.skip) for expert in layout.experts]
        self._mask = torch.tensor(mask, dtype=torch.float64).reshape(-1, 1, 1)
        start = layout.full(how.start)
        self._raw = (start.log() if how.shape == "shares" else start).requires_grad_()
        self._optimiser = Optimiser(how.optimizer, how.weight_decay)
        self._feeds = {task: Feed(examples) for task, examples in on.batches.items()}
        self._watch = Watch(loss.classifies)
        self._trace: list[Step] = []
        self._good = self._table().detach()
        self._best: tuple[float, int, Tensor] | None = None
        self._resumed: list[int] = []

    def _table(self) -> Tensor:
        """Return the coefficients of the raw numbers, ``(K, G, P)``, differentiable."""
        if self._how.shape == "shares":
            raw = self._raw.masked_fill(self._mask == 0, -torch.inf)
            return self._how.total * raw.softmax(0)
        raw = self._raw.clamp(0, 1) if self._how.shape == "clamp" else self._raw
        return raw * self._mask

    def go(self, unfinished: Unfinished) -> Tensor:
        """Run all steps that are left; return the table that is kept."""
        how, label = self._how, f"fit {self._name}"
        before = unfinished.load()
        if before is not None:
            self._resume(before)
        stand = self._stand() if unfinished.kept else None
        try:
            for number in range(len(self._trace) + 1, how.steps + 1):
                self._step(number)
                if how.check_every and (number % how.check_every == 0 or number == how.steps):
                    self._consider(number)
                if unfinished.kept:
                    stand = self._stand()
                    unfinished.save_in_time(self._stand)
                self._on.progress(label, number, how.steps)
        except FitStopped:
            unfinished.end()
            raise
        except BaseException:
            if stand is not None:
                unfinished.save(stand)
            raise
        table = self._table().detach() if self._best is None else self._best[2]
        if self._best is not None and self._loss.classifies:
            self._watch = kept_watch(self._on, self._blend, table, how.passes)
        unfinished.end()
        return table

    def _stand(self) -> Stand:
        """Return where the fit stands between two steps."""
        steps, moments = self._optimiser.state()
        tensors = {"raw": self._raw.detach().clone(), "good": self._good.clone()}
        tensors |= {f"moment/{name}": tensor for name, tensor in moments.items()}
        best = None
        if self._best is not None:
            best, tensors["best"] = self._best[:2], self._best[2].clone()
        plain = {
            "optimiser": steps,
            "best": best,
            "feeds": {task: feed.place for task, feed in self._feeds.items()},
            "watch": self._watch.state(),
            "seconds": time.perf_counter() - self._begun,
            "resumed": self._resumed,
        }
        return Stand(tensors, plain, tuple(self._trace))

    def _resume(self, stand: Stand) -> None:
        """Go back to where a fit stood."""
        tensors, plain = stand.tensors, stand.plain
        with torch.no_grad():
            self._raw.copy_(tensors["raw"])
        self._good = tensors["good"]
        moments = {n.removeprefix("moment/"): t for n, t in tensors.items() if n.startswith("moment/")}
        self._optimiser.resume(plain["optimiser"], moments)
        if plain["best"] is not None:
            value, number = plain["best"]
            self._best = value, number, tensors["best"]
        for task, place in plain["feeds"].items():
            self._feeds[task].seek(place)
        self._watch.resume(plain["watch"])
        self._trace = list(stand.trace)
        self._begun -= plain["seconds"]
        self._resumed = [*plain["resumed"], len(self._trace)]

    def _step(self, number: int) -> None:
        table = self._table()
        self._blend.build(table.detach())
        losses = {task: self._backward(task, number) for task in self._on.tasks}
        gradient = self._blend.gradient()
        penalty = _penalty(table, self._how)
        self._raw.grad = None
        torch.autograd.backward([table, penalty], [gradient, torch.ones_like(penalty)])
        assert self._raw.grad is not None
        norm = float(self._raw.grad.norm())
        weight = self._how.weights
        total = sum(weight.get(task, 1.0) * value for task, value in losses.items())
        if not math.isfinite(norm):
            self._stop(number, f"the gradient is {norm}", self._good)
        self._good = table.detach()
        self._remember(number, total + float(penalty.detach()), losses, norm)
        rate = self._how.rate * share(number - 1, self._how.steps, self._how.schedule)
        limit = math.inf if self._how.clip is None else self._how.clip
        self._optimiser.step(self._raw, self._raw.grad * min(1.0, limit / (norm + 1e-6)), rate)

    def _backward(self, task: str, number: int) -> float:
        """Run a task's batches backward; return their loss."""
        weights, factor = self._blend.weights(task), self._how.weights.get(task, 1.0)
        total = 0.0
        for _ in range(self._how.passes):
            place, (inputs, labels) = self._feeds[task].next()
            logits = self._on.probes[task].logits(inputs, weights)
            loss = self._loss(task, place, logits, labels)
            value = float(loss.detach())
            if not math.isfinite(value):
                self._stop(number, f"the loss of task {task!r} is {value}", self._good)
            self._watch.see(number, task, logits.detach())
            if factor and loss.requires_grad:
                (factor * loss).backward()  # type: ignore[no-untyped-call]
            total += value
        return total

    def _remember(self, number: int, loss: float, losses: Mapping[str, float], norm: float) -> None:
        values = {f"loss {task}": value for task, value in losses.items()}
        values |= {
            f"mean {expert}": float(row.mean())
            for expert, row in zip(self._layout.experts, self._good, strict=True)
        }
        values["gradient"] = norm
        values |= self._watch.shares(number)
        self._trace.append(Step(number, loss, time.perf_counter() - self._begun, values))

    def _consider(self, number: int) -> None:
        """Keep the table of now if validation says that it is the best."""
        table = self._table().detach()
        self._blend.build(table)
        found = accuracy(self._on, self._blend, self._how.weights)
        last = self._trace[-1]
        self._trace[-1] = Step(last.step, last.loss, last.seconds, {**last.values, "validation": found})
        if self._best is None or found > self._best[0]:
            self._best = found, number, table

    def _stop(self, number: int, what: str, good: Tensor) -> None:
        fault = self._on.spoilt()
        hint = "Repair it, or leave it out" if fault else "Lower the rate, or check the inputs"
        if number > 1:
            hint += f"; the coefficients of step {number - 1} are kept"
        raise FitStopped(
            f"{self._name}: {what} in step {number} of {self._how.steps}, expected a finite number"
            + (f", and {fault}" if fault else ""),
            self.fitted(good, stopped=f"step {number}: {what}"),
            hint=hint,
        )

    def fitted(self, table: Tensor, *, stopped: str = "") -> Fitted:
        """Return the recipe of a table, and what is known of its making."""
        how = self._how
        options = self._layout.options(table) | ({} if how.trim is None else {"trim": how.trim})
        said = provenance(self._on, self._name) | {
            "objective": how.objective,
            "labels": "used" if self._loss.labelled else "not used",
            "coefficients": str(math.prod(self._layout.shape)),
            "steps": str(len(self._trace)),
            "seconds": f"{time.perf_counter() - self._begun:.3f}",
        }
        if self._resumed:
            said["resumed"] = f"after step {', '.join(map(str, self._resumed))}"
        if any(abs(factor) != 1 for factor in how.weights.values()):
            parts = {
                task: abs(how.weights.get(task, 1.0)) / len(self._on.tasks) for task in self._on.tasks
            }
            said["preference"] = ", ".join(f"{task} {part:.3g}" for task, part in parts.items())
        if how.skip:
            said["left out"] = ", ".join(how.skip)
        if self._best is not None and not stopped:
            said["kept"] = f"step {self._best[1]}, validation accuracy {self._best[0]:.4f}"
        collapsed = self._watch.collapse()
        if collapsed:
            said["collapse"] = collapsed
        if stopped:
            said["stopped"] = stopped
        return Fitted("coefficients", options, tuple(self._trace), said)


def provenance(on: Problem, name: str) -> dict[str, str]:
    """Return what every fit says of what it saw."""
    counts = ", ".join(f"{task} {examples.count}" for task, examples in on.batches.items())
    return {
        "fit": name,
        "experts": ", ".join(on.names),
        "examples": counts,
        "split": on.split,
        "transductive": transductive(on),
        "seed": str(on.seed),
        "taskloom": __version__,
        "torch": str(torch.__version__),
    }


def transductive(on: Problem) -> str:
    """Return whether a fit sees what it may be scored on: ``"no"``, or what of it."""
    return (
        f"yes: inputs of the test split of {', '.join(on.tasks)}, no labels"
        if on.split == TEST
        else "no"
    )


def accuracy(on: Problem, blend: Blend, weights: Mapping[str, float]) -> float:
    """Return the mean over tasks of the share of validation examples that the model gets right.

    Tasks count by the size of their factor in ``weights``, 1 where there is none.
    """
    found, sizes = [], []
    for task, examples in on.validation.items():
        merged, right, seen = blend.weights(task), 0, 0
        with torch.no_grad():
            for inputs, labels in examples:
                if labels is None:
                    raise DataError(
                        f"task {task!r}: expected labelled validation examples, found a batch without",
                        hint="Give labels, or do not check on validation",
                    )
                right += int((on.probes[task].logits(inputs, merged).argmax(-1) == labels).sum())
                seen += len(labels)
        sizes.append(abs(weights.get(task, 1.0)))
        found.append(sizes[-1] * (right / seen))
    return sum(found) / sum(sizes)


def share(step: int, steps: int, schedule: Schedule) -> float:
    """Return the share of the rate for a step, counted from 0.

    >>> share(0, 10, "cosine"), round(share(5, 10, "cosine"), 3), share(5, 10, "constant")
    (1.0, 0.5, 1.0)
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0


def _penalty(table: Tensor, how: Descent) -> Tensor:
    if how.penalty is None:
        return table.sum() * 0.0
    factor, order = how.penalty
    norm: Tensor = torch.linalg.vector_norm(table, ord=order)
    return factor * norm
