"""Chains in the words of the fused kernels, and the memory a thread runs them in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import check_weights
from taskloom.algebra.core import Op
from taskloom.algebra.fuse import Rule, coefficients
from taskloom.algebra.select import Selection
from taskloom.errors import PlanError
from taskloom.lazy import Tensor
from taskloom.merging.program import Output
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

Numbers = NDArray[Any]

#: dtype -> how the kernels call it; the last two are decoded by a table of 256 numbers
KINDS = {"float32": 0, "bfloat16": 1, "float16": 2, "float8_e4m3fn": 3, "float8_e5m2": 3}
OUTPUTS = ("float32", "bfloat16", "float16")
_CODES = {
    "weigh": 0,
    "total": 1,
    "mean": 2,
    "kept": 3,
    "scale": 4,
    "drop": 5,
    "elect": 6,
    "keep": 7,
    "tensor": 8,
    "row": 9,
    "stock": 10,
    "rank": 11,
    "blend": 1,
    "vary": 12,
    "erase": 13,
}
_ROW, _BAND, _NOTHING = 9, 14, 15
_AGGREGATES = {"total", "mean", "kept", "blend", "stock", "erase"}
#: steps that rank whole rows
_ROWS = ("row", "rank")
#: what a measure counts: (what, bins) of each round
ROUNDS = {"magnitudes": ((0, 1 << 15), (1, 1 << 16)), "signs": ((2, 1),), "gram": ((-1, 0),)}
#: added to it before a step that orders entries by their variance
_VARIANCES = 3


@lru_cache
def available() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def fits(output: Output) -> bool:
    """Whether the kernels can make this output: plain files, known dtypes, steps they know."""
    if not available() or output.info.kind not in OUTPUTS:
        return False
    if not all(
        isinstance(ref.checkpoint, SafetensorsCheckpoint) and ref.info.kind in KINDS
        for ref in output.sources
    ):
        return False
    steps = output.chain.steps if output.chain is not None else ()
    rows = len(output.experts)
    for step in steps:
        if step.op is None or isinstance(step.op.weights, Tensor):
            return False
        if step.measure is not None and step.measure.count is None:
            return False
        rows = 1 if step.op.name in _AGGREGATES else rows
    return rows == 1


def by_row(output: Output) -> bool:
    """Whether a step ranks whole rows, which must then be in one block."""
    steps = output.chain.steps if output.chain is not None else ()
    return any(step.op is not None and step.op.name in _ROWS for step in steps)


def varies(output: Output, index: int) -> bool:
    """Whether a step orders entries by their variance over the experts."""
    op = output.chain.steps[index].op if output.chain is not None else None
    return op is not None and op.name == "vary"


@dataclass
class Compiled:
    """The steps of one chain for one tensor, as arrays."""

    codes: Numbers
    flags: Numbers
    numbers: Numbers
    weighted: Numbers
    weights: Numbers
    keys: Numbers
    limits: Numbers
    missing: Numbers
    seen: Numbers

    @property
    def arguments(self) -> tuple[Numbers, ...]:
        """In the order in which the kernels take them."""
        return (
            self.codes,
            self.flags,
            self.numbers,
            self.weighted,
            self.weights,
            self.keys,
            self.limits,
            self.missing,
            self.seen,
        )


def compile_output(output: Output, statistics: Mapping[int, Any]) -> Compiled:
    """Translate the steps of an output that `fits`, with the statistics that are known."""
    steps = output.chain.steps if output.chain is not None else ()
    count, experts = len(steps), len(output.experts)
    made = Compiled(
        codes=np.zeros(count, np.int64),
        flags=np.zeros(count, np.int64),
        numbers=np.zeros(count, np.float32),
        weighted=np.zeros(count, np.bool_),
        weights=np.ones((count, experts), np.float32),
        keys=np.zeros((count, experts, 2), np.uint64),
        limits=np.zeros((count, experts), np.int64),
        missing=np.zeros((count, experts), np.int64),
        seen=np.zeros((count, experts), np.int64),
    )
    for at, step in enumerate(steps):
        if step.op is None:
            raise ValueError(f"the kernels do not know the step {step.name}")
        made.codes[at] = _CODES[step.op.name]
        made.flags[at] = step.op.flag
        if step.op.weights is not None:
            made.weighted[at] = True
            made.weights[at] = np.asarray(check_weights(step.op.weights, output.names), np.float32)
        _numbers(made, at, step.op, output, statistics.get(at))
    if output.info.shape:
        _join(made)
    return made


def _join(made: Compiled) -> None:
    """Let a step that cuts the largest of a row and one that keeps the next largest be one."""
    for at in range(len(made.codes) - 1):
        if (made.codes[at : at + 2] == _ROW).all() and made.flags[at] and not made.flags[at + 1]:
            made.codes[at : at + 2] = _BAND, _NOTHING


def _numbers(made: Compiled, at: int, op: Op, output: Output, statistic: Any) -> None:
    if op.name == "scale":
        made.numbers[at] = np.float32(op.value)
    elif op.name == "mean":
        made.numbers[at] = _divisor(made.weights[at])
        if op.flag and made.numbers[at] == 0:
            raise PlanError(
                "the weights sum to 0, so their mean is undefined",
                hint="Give weights with another sum, or normalize=False for a plain weighted sum",
            )
    elif op.name == "blend" and statistic is not None:
        made.weighted[at] = True
        made.weights[at] = statistic
    elif op.name == "stock" and statistic is not None:
        made.numbers[at] = len(output.experts)
        made.weights[at] = statistic[0]
    elif op.name == "rank":
        row = output.info.shape[-1] if output.info.shape else 1
        made.numbers[at] = np.float32(op.value - op.width if row > 1 else op.value)
        made.weights[at] = np.float32(2 * op.width / (row - 1) if row > 1 else 0.0)
        for k, expert in enumerate(output.names):
            made.keys[at, k] = _key(op.seed, output.name, expert)
    elif op.name == "drop":
        made.numbers[at] = np.float32(1.0 / (1.0 - op.value) if op.flag and op.value < 1 else 1.0)
        made.limits[at] = round(op.value * 2**32)
        for k, expert in enumerate(output.names):
            made.keys[at, k] = _key(op.seed, output.name, expert)
    elif op.name == "elect":
        made.numbers[at] = (0.0, 1.0, 1.0 if statistic is None else statistic)[op.flag]
    elif op.name == "keep" and statistic is not None:
        made.limits[at] = statistic
    elif op.name == "tensor" and not output.info.shape:  # a scalar is left alone
        made.limits[at] = 0x7FFFFFFF if op.flag else 0
        made.missing[at] = 1
    elif op.name == "erase":
        made.numbers[at] = np.float32(op.value)
        if statistic is not None:
            rule: Rule = "mergekit" if op.flag else "paper"
            made.weights[at] = coefficients(statistic, output.info.numel, rule)
    elif op.name == "vary" and not output.info.shape:  # a share below 1 of one entry is none
        made.limits[at] = 0x7FFFFFFF
    elif op.name in {"tensor", "vary"} and isinstance(statistic, Selection):
        made.limits[at], made.missing[at], made.seen[at] = (
            statistic.limits,
            statistic.missing,
            statistic.seen,
        )
    elif op.name == "row":
        row = output.info.shape[-1] if output.info.shape else 0
        # a scalar has no row: it is left alone
        everything = 0 if op.flag else 1
        made.limits[at] = int(row * op.value) + op.extra if output.info.shape else everything


def _key(seed: int, tensor: str, expert: str) -> Numbers:
    """Return the key of the random numbers of one expert of a tensor (`taskloom.algebra.random`)."""
    text = f"{seed}\0{tensor}\0{expert}".encode()
    return np.frombuffer(hashlib.sha256(text).digest()[:16], dtype=np.uint64)


def _divisor(weights: Numbers) -> np.float32:
    """Sum in pool order, as the plain step does."""
    total = np.float32(weights[0])
    for weight in weights[1:]:
        total = np.float32(total + weight)
    return total


class Arena:
    """The buffers of one thread: raw bytes of every source, one block of scratch, the result.

    Parameters
    ----------
    sources
        Most sources of any output.
    elements
        Most elements of a slice.
    row
        Longest row that must be in a block as a whole.
    """

    def __init__(self, sources: int, elements: int, row: int) -> None:
        from taskloom.merging import blocks

        self.blocks = blocks
        self.sources, self.elements, self.block_elements = sources, elements, max(blocks.BLOCK, row)
        width = -(-elements * 4 // 64) * 64
        self.raw8 = np.empty((sources, width), np.uint8)
        self.raw16, self.raw32 = self.raw8.view(np.uint16), self.raw8.view(np.uint32)
        self.values = np.empty((sources + 3, self.block_elements), np.float32)
        self.bits = self.values.view(np.uint32)
        self.counts = np.zeros(2048, np.int64)
        self.spare = np.empty(self.block_elements + 1, np.uint32)
        self.out8 = np.empty(width, np.uint8)
        self.out16, self.out32 = self.out8.view(np.uint16), self.out8.view(np.uint32)
        self.bad = np.zeros(sources + 1, np.int64)

    def _sources(self, output: Output, count: int, start: int) -> tuple[Any, ...]:
        kinds = [ref.info.kind for ref in output.sources]
        experts = len(output.experts)
        based = len(kinds) - experts
        row = output.info.shape[-1] if output.info.shape else 1
        ranked = output.chain is not None and any(
            s.op and s.op.name in _ROWS for s in output.chain.steps
        )
        block = self.blocks.BLOCK
        if ranked and row:
            block = max(1, block // row) * row
        return (
            self.raw8,
            self.raw16,
            self.raw32,
            np.array([KINDS[kind] for kind in kinds], np.int64),
            np.stack([_table(kind) for kind in kinds]),
            experts,
            based,
            count,
            start,
            max(1, row),
            block,
        )

    def nonfinite(self, output: Output, count: int) -> int:
        """Count what is not finite among the first ``count`` results."""
        if output.info.kind == "float32":
            return int(np.count_nonzero(self.out32[:count] & 0x7F800000 == 0x7F800000))
        top = 0x7F80 if output.info.kind == "bfloat16" else 0x7C00
        return int(np.count_nonzero(self.out16[:count] & top == top))

    def merge(self, output: Output, made: Compiled, count: int, start: int) -> None:
        """Merge ``count`` elements of the raw bytes into the result's; add to ``bad``."""
        self.blocks.merge(
            *self._sources(output, count, start),
            *made.arguments,
            self.values,
            self.bits,
            self.counts,
            self.spare,
            KINDS[output.info.kind],
            self.out16,
            self.out32,
            self.bad,
        )

    def count(
        self,
        output: Output,
        made: Compiled,
        count: int,
        start: int,
        *,
        upto: int,
        what: int,
        prefix: Numbers,
        found: Numbers,
    ) -> None:
        """Count what a measure asks for; add to ``found`` and to ``bad``."""
        if varies(output, upto):
            what += _VARIANCES
        self.blocks.count(
            *self._sources(output, count, start),
            *made.arguments,
            self.values,
            self.bits,
            self.counts,
            self.spare,
            upto,
            what,
            prefix,
            found,
            self.bad,
        )

    def products(self, output: Output, made: Compiled, count: int, start: int, *, upto: int) -> Numbers:
        """Return sums of products of all pairs of experts, ``(blocks, pairs)``; add to ``bad``."""
        experts = len(output.experts)
        found = np.zeros((-(-count // self.blocks.BLOCK), experts * (experts + 1) // 2))
        self.blocks.products(
            *self._sources(output, count, start),
            *made.arguments,
            self.values,
            self.bits,
            self.counts,
            self.spare,
            upto,
            found,
            self.bad,
        )
        return found


@lru_cache
def _table(kind: str) -> Numbers:
    """Return the 256 numbers of an 8-bit dtype as bits of float32 (zeros for others)."""
    codes = np.arange(256, dtype=np.uint16)
    if kind == "float8_e5m2":
        numbers = (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    elif kind == "float8_e4m3fn":
        exponent, fraction = (codes >> 3) & 15, (codes & 7).astype(np.float32)
        small = fraction * np.float32(2.0**-9)
        large = (1 + fraction / 8) * np.exp2(exponent.astype(np.float32) - 7)
        numbers = np.where(exponent == 0, small, large).astype(np.float32)
        numbers[(codes & 127) == 127] = np.nan
        numbers = np.where(codes & 128, -numbers, numbers).astype(np.float32)
    else:
        return np.zeros(256, np.uint32)
    bits: Numbers = numbers.view(np.uint32)
    return bits
