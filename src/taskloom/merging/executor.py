"""Run a chain over a pool: read slices, stack them, apply the steps, add back to the base, cast.

The executor owns files, dtypes and memory; the steps are pure. Reading from disk and from memory goes
through the same code, so both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskloom.algebra import Chain, Grain, Stack
from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.progress import Progress, silent
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.pool import Pool

#: elements of one slice of one expert; 4 MB in float32, so that a stack of a few stays in cache
SLICE = 1 << 20


@dataclass(frozen=True)
class MergePlan:
    """What a merge will read and need, known from headers alone.

    Attributes
    ----------
    parameters, passthrough
        Tensors to merge, and tensors copied as they are (integers, booleans).
    reads
        Passes over every expert's parameters.
    bytes_read
        Over all passes, base included.
    memory
        Bytes the largest stack and its working copies need, about.
    """

    pool: Pool
    chain: Chain
    parameters: tuple[str, ...]
    passthrough: tuple[str, ...]
    reads: int
    bytes_read: int
    memory: int

    @property
    def order(self) -> tuple[str, ...]:
        """Every output tensor, in the stored order of the base."""
        return tuple(self.pool.tensors)


def plan_merge(pool: Pool, chain: Chain) -> MergePlan:
    """Check that the chain fits the pool and count what it will read; touches no weights.

    Raises
    ------
    PlanError
        Too few or too many experts, or a method on task vectors without a base.
    """
    low, high = chain.experts
    count = len(pool.experts)
    if count < low or (high is not None and count > high):
        wanted = f"exactly {low}" if low == high else f"at least {low}"
        names = ", ".join(pool.names)
        raise PlanError(
            f"{chain} is defined for {wanted} experts, but the pool has {count} ({names})",
            hint="Change the pool or take another method",
        )
    if chain.space == "delta" and pool.base is None:
        raise PlanError(
            f"{chain} works on task vectors and needs the base the experts were tuned from",
            hint="Give the base, or take a method that needs none, such as average",
        )
    tensors = pool.tensors
    parameters = tuple(pool.parameters())
    sources = [e.checkpoint for e in pool.experts]
    if chain.space == "delta" and pool.base is not None:
        sources.append(pool.base)
    once = sum(source.tensors[name].nbytes for source in sources for name in parameters)
    widest = max((_slice_elements(tensors[n], chain.grain) for n in parameters), default=0)
    return MergePlan(
        pool=pool,
        chain=chain,
        parameters=parameters,
        passthrough=tuple(pool.passthrough()),
        reads=chain.reads,
        bytes_read=once * chain.reads + sum(tensors[n].nbytes for n in pool.passthrough()),
        memory=widest * 4 * (2 * count + 3),
    )


def execute(
    plan: MergePlan, *, dtype: torch.dtype | None = None, progress: Progress = silent
) -> Iterator[tuple[str, Tensor]]:
    """Yield every output tensor in the base's order.

    Parameters
    ----------
    plan
        From `plan_merge`.
    dtype
        Of the merged tensors; each keeps the base's if None.
    progress
        Told the number of tensors seen, over all reads.

    Raises
    ------
    NumericalError
        NaN or infinity in an input, naming tensor, checkpoint and count.
    """
    ticks = _Ticks(progress, len(plan.parameters) * plan.reads)
    statistics = _measure(plan, ticks)
    merged = set(plan.parameters)
    source = plan.pool.yardstick
    for name in plan.order:
        if name not in merged:
            yield name, source.read(name)
            continue
        info = source.tensors[name]
        pieces = []
        for rows, start in _slices(info, plan.chain.grain):
            base, stack = _load(plan, name, info, rows, start, check=plan.reads == 1)
            for index, step in enumerate(plan.chain.steps):
                stack = step.apply(stack, statistics.get(index))
            pieces.append(_finish(base, stack, dtype or info.dtype))
        ticks.tick()
        yield name, pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _measure(plan: MergePlan, ticks: _Ticks) -> dict[int, Any]:
    """Run every barrier step's rounds; return the statistics by index of step."""
    statistics: dict[int, Any] = {}
    tensors = plan.pool.tensors
    first = True
    for index, step in enumerate(plan.chain.steps):
        if step.measure is None:
            continue
        accumulated: Any = None
        for round_ in range(step.measure.rounds):
            accumulated = step.measure.start(round_, accumulated)
            for name in plan.parameters:
                for rows, start in _slices(tensors[name], plan.chain.grain):
                    _, stack = _load(plan, name, tensors[name], rows, start, check=first)
                    for before, earlier in enumerate(plan.chain.steps[:index]):
                        stack = earlier.apply(stack, statistics.get(before))
                    accumulated = step.measure.see(accumulated, stack)
                ticks.tick()
            first = False
        statistics[index] = step.measure.done(accumulated) if plan.parameters else None
    return statistics


def _load(
    plan: MergePlan, name: str, info: TensorInfo, rows: slice | None, start: int, *, check: bool
) -> tuple[Tensor | None, Stack]:
    """Read one slice of every expert, minus the base where the chain works on task vectors."""
    pool = plan.pool
    read = [(e.checkpoint, e.checkpoint.read(name, rows)) for e in pool.experts]
    wide = torch.float64 if any(t.dtype == torch.float64 for _, t in read) else torch.float32
    base: Tensor | None = None
    if plan.chain.space == "delta":
        assert pool.base is not None  # plan_merge refused otherwise
        base = pool.base.read(name, rows).to(wide)
    values = torch.stack([tensor.to(wide) for _, tensor in read])
    if check and not bool(torch.isfinite(values.detach().sum())):
        for (checkpoint, tensor), expert in zip(read, pool.experts, strict=True):
            _refuse_nonfinite(tensor, name, f"expert {expert.name!r} ({checkpoint.label})")
    if base is not None:
        if check and not bool(torch.isfinite(base.detach().sum())):
            _refuse_nonfinite(base, name, f"the base ({pool.base.label if pool.base else ''})")
        values = values - base
    return base, Stack(name, values, pool.names, start, info.numel)


def _refuse_nonfinite(tensor: Tensor, name: str, owner: str) -> None:
    count = int((~torch.isfinite(tensor.detach().to(torch.float32))).sum())
    if count:
        raise NumericalError(
            f"tensor {name!r} of {owner} holds {count} NaN or infinite values",
            hint="A merge would spread them; repair or leave out that checkpoint",
        )


def _finish(base: Tensor | None, stack: Stack, dtype: torch.dtype) -> Tensor:
    if len(stack.values) != 1:
        raise CheckpointError(
            f"the recipe ends with {len(stack.values)} rows for tensor {stack.name!r} instead of one",
            hint="End the chain with an aggregate such as total or mean",
        )
    merged = stack.values[0] if base is None else base + stack.values[0]
    return merged.to(dtype)


def _slice_elements(info: TensorInfo, grain: Grain) -> int:
    if len(info.shape) < 2 or grain >= Grain.TENSOR or info.numel == 0:
        return info.numel
    row = info.numel // info.shape[0]
    return min(info.numel, max(1, SLICE // row) * row)


def _slices(info: TensorInfo, grain: Grain) -> Iterator[tuple[slice | None, int]]:
    """Yield (rows along axis 0 or None for all, index of the first element)."""
    size = _slice_elements(info, grain)
    if size >= info.numel:
        yield None, 0
        return
    row = info.numel // info.shape[0]
    for first in range(0, info.shape[0], size // row):
        yield slice(first, min(first + size // row, info.shape[0])), first * row


class _Ticks:
    """Counts tensors for the listener."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def tick(self) -> None:
        self.done += 1
        self.progress("merge", self.done, self.total)
