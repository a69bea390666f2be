"""How tensors are cut up, so that memory depends on neither the model nor its largest tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taskloom.algebra import Chain, Grain
from taskloom.algebra.core import Measure
from taskloom.store.checkpoint import TensorInfo


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``stop`` of a flattened tensor, to be seen in a certain shape."""

    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class Cutting:
    """How one tensor is worked on by one chain.

    Attributes
    ----------
    grain
        Of its pieces.
    elements
        Most elements of a piece, unless a row or the tensor itself is longer.
    slicewise
        Measures of this tensor alone, by index of step; each costs its rounds in further reads.
    """

    grain: Grain
    elements: int
    slicewise: dict[int, Measure]

    @property
    def extra_reads(self) -> int:
        """Reads of this tensor beyond those of the chain."""
        return sum(measure.rounds for measure in self.slicewise.values())


def cutting(chain: Chain, info: TensorInfo, elements: int) -> Cutting:
    """Choose the pieces: flat slices where every step can take them, rows, or the whole tensor.

    Steps of grain tensor that measure the tensor first (`Step.slicewise`) let it be cut, where no
    measure of the whole model comes in between. Slices are whole blocks where a step asks for them
    (`Step.block`); beside a step that needs rows, such a step has the whole tensor.

    >>> from taskloom.algebra import Step, chain
    >>> blocks = chain(Step("blocks", lambda stack, _: stack, block=4))
    >>> cutting(blocks, TensorInfo((100,), "float32"), 10).elements
    8
    """
    if chain.block > 1:
        if any(step.grain == Grain.ROW for step in chain.steps):  # rows and blocks need not meet
            return Cutting(max(chain.grain, Grain.TENSOR), elements, {})
        elements = max(1, elements // chain.block) * chain.block
    if info.numel <= elements or chain.grain < Grain.TENSOR:
        return Cutting(chain.grain, elements, {})
    coarse = [step for step in chain.steps if step.grain >= Grain.TENSOR]
    if chain.reads > 1 or any(step.slicewise is None for step in coarse):
        return Cutting(chain.grain, elements, {})
    measures = {i: step.slicewise for i, step in enumerate(chain.steps) if step.slicewise is not None}
    finer = max((s.grain for s in chain.steps if s.slicewise is None), default=Grain.ELEMENT)
    return Cutting(finer, elements, measures)


def pieces(info: TensorInfo, how: Cutting) -> Iterator[Piece]:
    """Yield the pieces in order; a tensor that fits is one piece of its own shape.

    >>> from taskloom.algebra import Grain
    >>> info = TensorInfo((3, 4), "float32")
    >>> [(p.start, p.shape) for p in pieces(info, Cutting(Grain.ELEMENT, 5, {}))]
    [(0, (5,)), (5, (5,)), (10, (2,))]
    >>> [(p.start, p.shape) for p in pieces(info, Cutting(Grain.ROW, 9, {}))]
    [(0, (2, 4)), (8, (1, 4))]
    """
    step, row = piece_elements(info, how), info.shape[-1] if info.shape else 1
    if step >= info.numel:
        yield Piece(0, info.numel, info.shape)
        return
    for start in range(0, info.numel, step):
        stop = min(start + step, info.numel)
        rows = how.grain == Grain.ROW
        yield Piece(start, stop, ((stop - start) // row, row) if rows else (stop - start,))


def piece_elements(info: TensorInfo, how: Cutting) -> int:
    """Return the number of elements of the largest piece."""
    whole = info.numel <= how.elements or how.grain >= Grain.TENSOR
    if whole or (how.grain == Grain.ROW and len(info.shape) < 2):
        return info.numel
    if how.grain == Grain.ROW:
        row = info.shape[-1]
        return min(info.numel, max(1, how.elements // row) * row)
    return how.elements
