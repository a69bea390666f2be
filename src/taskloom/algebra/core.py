"""The contract every method is written in: Stack, Step, Measure, chain.

``K experts x n numbers -> n numbers``: a `Stack` holds one parameter (or a slice of it) across the
pool, a `Step` maps a Stack to a Stack, and a `Chain` of steps ends with one row left.

A step without a measure is local and streams. A step with one is a barrier: a statistic of the whole
model must be known before it can run, which costs ``measure.rounds`` extra reads. The number of reads
is thus known before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from taskloom.lazy import Tensor

#: one number: a plain float, or a 0-d tensor when its gradient is wanted
Scalar = float | Tensor
#: one number per expert: in pool order, or by expert's name
Weights = Sequence[float] | Mapping[str, float] | Tensor


class Grain(IntEnum):
    """The smallest piece of a tensor on which a step may run, finest first."""

    ELEMENT = 0  #: any flat slice
    ROW = 1  #: whole rows along the last axis
    TENSOR = 2  #: the whole tensor
    MATRIX = 3  #: the whole tensor, and its working set is a multiple of it

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Stack:
    """One parameter, or a slice of it, across the pool.

    Attributes
    ----------
    name
        Parameter name, e.g. ``encoder.layer.0.output.dense.weight``.
    values
        ``(K, *slice)`` floating point, one row per expert, in pool order. After an aggregate K is 1.
    experts
        Names of the K experts; messages and per-expert options use them.
    start
        Index of the slice's first element in the flattened tensor.
    numel
        Number of elements of the whole tensor.
    """

    name: str
    values: Tensor
    experts: tuple[str, ...]
    start: int
    numel: int

    def with_values(self, values: Tensor) -> Stack:
        """Return the same slice with other values."""
        return replace(self, values=values)


@dataclass(frozen=True)
class Measure:
    """A statistic of the whole model, mergeable over tensors and slices.

    Round r starts with ``start(r, previous)`` where ``previous`` is what the round before
    accumulated (None in round 0); ``see`` folds a Stack in, ``done`` turns the last round's
    accumulator into the statistic that the step's ``apply`` receives. ``see`` must give the same
    result for any order and slicing of the stacks.
    """

    rounds: int
    start: Callable[[int, Any], Any]
    see: Callable[[Any, Stack], Any]
    done: Callable[[Any], Any]


@dataclass(frozen=True)
class Step:
    """A pure map from Stack to Stack, with the statistic it needs, if any.

    ``weights`` are the per-expert numbers that ``apply`` uses; saying so lets the executor hold them
    against the pool before it reads anything.

    ``linear`` promises that every row that ``apply`` returns is a fixed linear combination of the rows
    it is given: the same numbers for every entry, slice and tensor, whatever the values are. A chain
    of such steps merges low-rank experts without leaving low rank; see `linear_weights`.
    """

    name: str
    apply: Callable[[Stack, Any], Stack]
    grain: Grain = Grain.ELEMENT
    measure: Measure | None = None
    weights: Weights | None = None
    linear: bool = False


@dataclass(frozen=True)
class Chain:
    """Steps in order. Two chains compose with `chain`.

    Attributes
    ----------
    steps
        The steps, first to last.
    space
        ``"delta"``: the stack holds task vectors (expert - base) and the executor adds the result
        back to the base. ``"weight"``: the stack holds the experts' weights themselves and no base
        takes part.
    experts
        Smallest and largest number of experts the rule is defined for; None for no limit.
    """

    steps: tuple[Step, ...]
    space: str = "delta"
    experts: tuple[int, int | None] = field(default=(1, None))

    @property
    def reads(self) -> int:
        """How often every tensor of every expert is read: 1 + the rounds of every measure."""
        return 1 + sum(step.measure.rounds for step in self.steps if step.measure)

    @property
    def grain(self) -> Grain:
        """The coarsest grain of the steps."""
        return max((step.grain for step in self.steps), default=Grain.ELEMENT)

    def __str__(self) -> str:
        return " -> ".join(step.name for step in self.steps)


def chain(
    *parts: Step | Chain, space: str = "delta", experts: tuple[int, int | None] = (1, None)
) -> Chain:
    """Compose steps and chains, left to right, into one chain."""
    steps: list[Step] = []
    for part in parts:
        steps.extend(part.steps if isinstance(part, Chain) else [part])
    return Chain(tuple(steps), space, experts)
