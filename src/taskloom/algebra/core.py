"""The contract every method is written in: Stack, Step, Measure, chain.

``K experts x n numbers -> n numbers``: a `Stack` holds one parameter (or a slice of it) across the
pool, a `Step` maps a Stack to a Stack, and a `Chain` of steps ends with one row left.

A step without a measure is local and streams. A step with one is a barrier: a statistic of the whole
model must be known before it can run, which costs ``measure.rounds`` extra reads. The number of reads
is thus known before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from taskloom.lazy import Tensor

if TYPE_CHECKING:
    from taskloom.algebra.exact import ExactSums

#: one number: a plain float, or a 0-d tensor when its gradient is wanted
Scalar = float | Tensor
#: one number per expert: in pool order, or by expert's name
Weights = Sequence[float] | Mapping[str, float] | Tensor
#: tensor's name, experts' names, tables of statistics by kind, statistic -> one number per expert
Told = Callable[[str, tuple[str, ...], Mapping[str, tuple[Mapping[str, str], ...]], Any], Any]
#: two thin factors whose product stands for a matrix
Pair = tuple[Tensor, Tensor]


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
    statistics
        What else is known of this slice, by kind of `Need`: one row per expert, in pool order.
    tables
        What the statistics' files say of the model as a whole, by kind: one mapping per expert.
    """

    name: str
    values: Tensor
    experts: tuple[str, ...]
    start: int
    numel: int
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    tables: Mapping[str, tuple[Mapping[str, str], ...]] = field(default_factory=dict)

    def with_values(self, values: Tensor) -> Stack:
        """Return the same slice with other values."""
        return replace(self, values=values)


@dataclass(frozen=True)
class Need:
    """A statistic of every expert that a step reads beside the weights.

    Attributes
    ----------
    kind
        Name of the statistic, as its file says: what ``taskloom collect`` is asked for.
    how
        ``"slice"``: one number per weight, cut as the weights are: the step sees ``(K, *slice)``.
        ``"whole"``: a tensor of the weight's name, of any shape, read whole; for steps of grain tensor
        or matrix. ``"table"``: no tensors, only what the file's header says.
    """

    kind: str
    how: Literal["slice", "whole", "table"] = "slice"


@dataclass(frozen=True)
class Summed:
    """Exact sums over a part of one tensor.

    Attributes
    ----------
    name
        Of the tensor.
    count
        Entries of a row that were added up.
    numel
        Entries of the tensor.
    sums
        One for each row.
    """

    name: str
    count: int
    numel: int
    sums: ExactSums


@dataclass(frozen=True)
class Measure:
    """A statistic of the whole model, mergeable over tensors and slices.

    Round r starts with ``start(r, previous)`` where ``previous`` is what the round before
    accumulated (None in round 0); ``see`` folds a Stack in, ``done`` turns the last round's
    accumulator into the statistic that the step's ``apply`` receives. ``see`` must give the same
    result for any order and slicing of the stacks.

    ``join`` adds up two accumulators of one round that saw different stacks, so that several threads
    can share a round; None: one thread sees everything. ``count`` is what the fused kernels count in
    place of ``see`` (see `Op`); where that is a sum (``squares``, ``sizes`` of entries, ``elected``:
    sizes of the rows and of what they take of the shared vector), ``add`` folds in what they summed.
    """

    rounds: int
    start: Callable[[int, Any], Any]
    see: Callable[[Any, Stack], Any]
    done: Callable[[Any], Any]
    join: Callable[[Any, Any], Any] | None = None
    count: Literal["magnitudes", "signs", "gram", "squares", "sizes", "elected", "scores"] | None = None
    add: Callable[[Any, Summed], Any] | None = None


@dataclass(frozen=True)
class Op:
    """What a step computes, in the words of the fused kernels.

    A step with an op may be run by a kernel that merges many steps into one pass over the numbers;
    the kernel must give the bits that ``apply`` gives. A step without one always runs as it is.

    Attributes
    ----------
    name
        ``weigh``, ``total``, ``mean``, ``kept`` (mean of what is not zero), ``scale``, ``drop``,
        ``elect``, ``keep`` (over the model), ``tensor`` or ``row`` (keep or cut the largest), ``rank``
        (drop by rank), ``blend`` and ``stock`` (total and scaled mean by numbers of the tensor),
        ``vary`` and ``erase`` (select by variance, average what agrees, as SCE does), ``tall_masks``,
        ``elect_largest``, ``consensus`` and ``take`` (a shared vector and parts of it), ``beyond``
        (compare with a number), ``clip``, ``exclusive`` (the largest of every block, each entry once),
        ``compete`` (PCB).
    value
        The factor, or the share.
    weights
        One number per expert, or None.
    told
        What makes those numbers for a tensor, where they are known before its entries are read, or
        follow from the step's statistic.
    seed
        Of ``drop``.
    flag
        ``drop``: rescale; ``elect``: a tie is nothing (0), plus (1) or the statistic (2); ``mean``:
        divide; ``tensor``, ``row``: cut instead of keep; ``erase``: mergekit's divisor; ``exclusive``:
        keep the last, shorter block; ``compete``: as the file for vision models does.
    extra
        Entries kept beyond the share; ``exclusive``: of a block; ``consensus``: least tasks.
    width
        ``rank``: how far probabilities lie from the share at most.
    size
        ``exclusive``: entries of a block.
    task
        ``take``: the expert whose part is taken; None takes the shared vector.
    place
        0: the experts' rows; 1: a copy of them, which the step makes and leaves beside them; 2: what is
        there.
    """

    name: str
    value: float = 0.0
    weights: Weights | None = None
    told: Told | None = None
    seed: int = 0
    flag: int = 0
    extra: int = 0
    width: float = 0.0
    size: int = 0
    task: str | None = None
    place: int = 0


@dataclass(frozen=True)
class Step:
    """A pure map from Stack to Stack, with the statistic it needs, if any.

    ``weights`` are the per-expert numbers that ``apply`` uses; saying so lets the executor hold them
    against the pool before it reads anything.

    ``linear`` promises that every row that ``apply`` returns is a fixed linear combination of the rows
    it is given: the same numbers for every entry, slice and tensor, whatever the values are. A chain
    of such steps merges low-rank experts without leaving low rank; see `linear_weights`.

    ``slicewise`` belongs to steps of grain tensor that need not hold the tensor: a measure of that
    tensor alone, after which ``apply`` runs on flat slices. They come in the order of the tensor's
    elements, each once, with one statistic made for each such pass (``apply`` may count in it).
    Given a whole tensor, ``apply`` gets None.

    ``block`` belongs to steps of grain element whose flat slices must start at its multiples, counted
    from the tensor's first element.

    ``needs`` are statistics that ``apply`` finds in the stack; without them the chain does not run.

    ``workspace`` says how many bytes ``apply`` takes beyond the stack, for a tensor (or a flat slice) of
    that shape and that many experts, where that is more than a second stack.

    ``factored`` does the same to low-rank task vectors without a full matrix; see `Factored`.

    ``experts`` are the names that ``apply`` looks for in the pool; saying so lets them be held against
    it before anything is read.
    """

    name: str
    apply: Callable[[Stack, Any], Stack]
    grain: Grain = Grain.ELEMENT
    measure: Measure | None = None
    weights: Weights | None = None
    linear: bool = False
    slicewise: Measure | None = None
    op: Op | None = None
    needs: tuple[Need, ...] = ()
    block: int = 1
    workspace: Callable[[tuple[int, ...], int], int] | None = None
    factored: Factored | None = None
    experts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Factored:
    """A step on low-rank task vectors: each is a pair ``left (rows, r), right (r, columns)``.

    Attributes
    ----------
    apply
        (tensor's name, experts' names, their pairs, statistic) -> the merged pair.
    stack
        (tensor's name, experts' names, their pairs) -> what ``measure`` sees.
    measure
        What the statistic of the whole model comes from; None if there is none.
    """

    apply: Callable[[str, tuple[str, ...], Sequence[Pair], Any], Pair]
    stack: Callable[[str, tuple[str, ...], Sequence[Pair]], Stack] | None = None
    measure: Measure | None = None


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
        takes part. ``"factors"``: the rule is for adapters only, see `Step.factored`.
    experts
        Smallest and largest number of experts the rule is defined for; None for no limit.
    otherwise
        What makes the tensors that the needed statistics do not speak of, or that ``only`` leaves out;
        None: they all must.
    only
        Tells by name and shape which tensors the chain is for; None: all.
    method
        Name of the method that composed it, which errors call it by; None for a chain of one's own.
    """

    steps: tuple[Step, ...]
    space: str = "delta"
    experts: tuple[int, int | None] = field(default=(1, None))
    otherwise: Chain | None = None
    only: Callable[[str, tuple[int, ...]], bool] | None = None
    method: str | None = None

    @property
    def called(self) -> str:
        """What errors call it: the method that was asked for, or the steps."""
        return self.method or str(self)

    @property
    def reads(self) -> int:
        """How often every tensor of every expert is read: 1 + the rounds of every measure."""
        return 1 + sum(step.measure.rounds for step in self.steps if step.measure)

    @property
    def grain(self) -> Grain:
        """The coarsest grain of the steps."""
        return max((step.grain for step in self.steps), default=Grain.ELEMENT)

    @property
    def block(self) -> int:
        """What the starts of flat slices must be multiples of."""
        return math.lcm(*(step.block for step in self.steps))

    @property
    def needs(self) -> tuple[Need, ...]:
        """The statistics of all steps, each once."""
        return tuple(dict.fromkeys(need for step in self.steps for need in step.needs))

    def for_tensor(self, name: str, shape: tuple[int, ...]) -> Chain:
        """Return the chain that makes a tensor: this one, or ``otherwise`` where ``only`` says no."""
        if self.only is None or self.otherwise is None or self.only(name, shape):
            return self
        return self.otherwise

    def __str__(self) -> str:
        return " -> ".join(step.name for step in self.steps)


def chain(
    *parts: Step | Chain,
    space: str = "delta",
    experts: tuple[int, int | None] = (1, None),
    otherwise: Chain | None = None,
    only: Callable[[str, tuple[int, ...]], bool] | None = None,
) -> Chain:
    """Compose steps and chains, left to right, into one chain."""
    steps: list[Step] = []
    for part in parts:
        steps.extend(part.steps if isinstance(part, Chain) else [part])
    return Chain(tuple(steps), space, experts, otherwise, only)
