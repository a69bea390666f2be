"""The merged model at coefficients, and the gradient of a loss with respect to them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType

import torch
from torch import Tensor

from taskloom.learn.coefficients.vectors import TaskVectors
from taskloom.learn.probe import Probe
from taskloom.learn.problem import Problem
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.memory import MemoryCheckpoint


class Blend:
    """Weights ``theta = theta_0 + sum_k c_k tau_k`` as leaves of a graph: one model in memory.

    A context: where the problem lends the modules' own memory, the weights are built there, so that
    beside the model there is no other, and the block's end puts the base's back.

    A loss is run backward into their gradients, another model; what a loss's gradient is with respect
    to a coefficient is the inner product of that gradient with the task vector. No graph ever holds a
    task vector.

    Parameters
    ----------
    on
        Whose probes are run.
    vectors
        The task vectors.
    lean
        Multiply every weight's gradient with the task vectors as soon as it is there, and forget it: no
        gradient of the model is kept, and task vectors are read once for every loss instead of once for
        all of them.
    """

    def __init__(self, on: Problem, vectors: TaskVectors, *, lean: bool = False) -> None:
        self._vectors = vectors
        self._lean = lean
        self._sum = torch.zeros(vectors.layout.shape, dtype=torch.float64)
        self._stored = {task: stored_names(probe, on.base) for task, probe in on.probes.items()}
        self._dtypes = {
            task: {name: weight.dtype for name, weight in probe.weights.items()}
            for task, probe in on.probes.items()
        }
        trained = {
            self._stored[task][name] for task, probe in on.probes.items() for name in probe.trained
        }
        used = {stored for names in self._stored.values() for stored in names.values()}
        self._base = on.base
        lent = _lent(on, self._stored) if on.borrow else {}
        self._borrowed: list[str] = []
        self._weights: dict[str, Tensor] = {}
        for name in vectors.layout.tensors:
            if name in used:
                self._weights[name] = self._room(name, vectors.dtype(name), lent.get(name))
        for name, weight in self._weights.items():
            weight.requires_grad_(name in trained and vectors.changed(name))
            if lean and weight.requires_grad:
                weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._take, name)
                )
        self._built = False

    def __enter__(self) -> Blend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with torch.no_grad():
            for name in self._borrowed:
                self._weights[name].requires_grad_(False).copy_(self._base.read(name))
        self._weights = {}

    def _room(self, name: str, dtype: torch.dtype, lent: Tensor | None) -> Tensor:
        """Return memory for a weight: what is lent, if it is of the kind that is needed."""
        if lent is not None and lent.dtype == dtype and lent.is_contiguous():
            self._borrowed.append(name)
            return lent.detach()
        return torch.empty(self._base.tensors[name].shape, dtype=dtype)

    def build(self, table: Tensor) -> None:
        """Put the model at a table of coefficients ``(K, G, P)``, and forget all gradients."""
        moving = {n: w for n, w in self._weights.items() if not self._built or self._vectors.changed(n)}
        self._built = True
        self._sum.zero_()
        with torch.no_grad():
            self._vectors.build(table, moving)
            for weight in self._weights.values():
                if weight.grad is not None:
                    weight.grad.zero_()

    def weights(self, task: str) -> dict[str, Tensor]:
        """Return the weights by the names of the task's probe; tied ones are one tensor."""
        own = self._dtypes[task]
        cast = {
            (stored, own[name]): self._weights[stored].to(own[name])
            for name, stored in self._stored[task].items()
            if stored in self._weights
        }
        return {
            name: cast[stored, own[name]]
            for name, stored in self._stored[task].items()
            if stored in self._weights
        }

    def gradient(self) -> Tensor:
        """Return what losses that ran backward since `build` add up to by coefficient, ``(K, G, P)``."""
        if self._lean:
            return self._sum.clone()
        found = {name: w.grad.contiguous() for name, w in self._weights.items() if w.grad is not None}
        return self._vectors.fold(found)

    def _take(self, name: str, weight: Tensor) -> None:
        """Fold a gradient that is complete, and let go of it."""
        if weight.grad is not None:
            self._sum += self._vectors.fold({name: weight.grad.contiguous()})
            weight.grad = None


def _lent(on: Problem, stored: Mapping[str, Mapping[str, str]]) -> dict[str, Tensor]:
    """Return stored name -> a module's memory for it; probes of several modules lend the first's."""
    found: dict[str, Tensor] = {}
    for task, probe in on.probes.items():
        for name, place in stored[task].items():
            found.setdefault(place, probe.weights[name])
    return found


def stored_names(probe: Probe, base: Checkpoint) -> Mapping[str, str]:
    """Return the probe's names -> the base's, for all weights that the base holds.

    Tied weights have several names in a probe, and get the base's tensor of the first.
    """
    tied = MemoryCheckpoint(probe.weights).aliases
    known: Mapping[str, str] = getattr(base, "aliases", {})
    found = {}
    for name in probe.weights:
        first = tied.get(name, name)
        stored = known.get(first, first)
        if stored in base.tensors:
            found[name] = stored
    return found
