"""Run a program in memory, tensor by tensor, keeping gradients.

The engine (`taskloom.merging.engine`) runs the same slices over files, on several threads; both give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taskloom.algebra import Chain, Stack
from taskloom.algebra.core import Measure
from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch
from taskloom.merging.plain import Nan, apply_steps, finish, load
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.merging.program import Output, program_of
from taskloom.merging.slices import Cutting, Piece, pieces
from taskloom.merging.statistics import Statistics
from taskloom.progress import Progress, silent
from taskloom.store.pool import Pool

__all__ = ["PLAIN", "SLICE", "MergePlan", "execute", "plan_merge"]

#: elements of one slice of one expert
SLICE = 1 << 18
#: the same for steps in torch, each of which makes arrays of its own
PLAIN = 1 << 16


def plan_merge(
    pool: Pool,
    chain: Chain,
    *,
    dtype: torch.dtype | None = None,
    statistics: Statistics | None = None,
) -> MergePlan:
    """Check that the chain fits the pool and count what it will read; touches no weights.

    Raises
    ------
    PlanError
        Too few or too many experts, weights that do not fit them, a method on task vectors
        without a base, or one that needs statistics without them.
    """
    return plan_program(program_of(pool, chain, dtype, statistics))


def execute(
    plan: MergePlan,
    *,
    dtype: torch.dtype | None = None,
    nan: Nan = "refuse",
    progress: Progress = silent,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every output tensor in the base's order.

    Parameters
    ----------
    plan
        From `plan_merge` or `plan_program`.
    dtype
        Of the merged tensors; the program's if None.
    nan
        ``"allow"`` lets NaN and infinity through.
    progress
        Told the number of tensors seen, over all reads.

    Raises
    ------
    NumericalError
        NaN or infinity in an input, naming tensor, checkpoint and count; or a result that the output
        dtype cannot hold.
    PlanError
        ``dtype`` is not a floating point one, or the chain does not end with one row.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise PlanError(
            f"merged tensors cannot be stored as {dtype}, which is not a floating point dtype",
            hint="Take float32, bfloat16 or float16",
        )
    total = sum(o.chain.reads for o in plan.program.outputs if o.chain is not None)
    ticks = _Ticks(progress, total)
    statistics = {
        id(chain): _measure(plan, chain, outputs, nan, ticks)
        for chain, outputs in plan.program.groups
        if chain is not None
    }
    for output in plan.program.outputs:
        if output.chain is None:
            (source,) = output.experts
            yield output.name, source.checkpoint.read(source.name).to(output.info.dtype)
            continue
        wanted = dtype or output.info.dtype
        yield output.name, _merge(plan, output, statistics[id(output.chain)], wanted, nan)
        ticks.tick()


def _merge(
    plan: MergePlan, output: Output, statistics: Mapping[int, Any], dtype: torch.dtype, nan: Nan
) -> Tensor:
    how = plan.cutting(output)
    check = nan == "refuse"
    known = dict(statistics) | tensor_statistics(output, how, check=check)
    merged = []
    for piece in pieces(output.info, how):
        base, stack = load(output, piece, check=check)
        merged.append(finish(base, apply_steps(output, stack, known), dtype, nan))
    whole = merged[0] if len(merged) == 1 else torch.cat([part.reshape(-1) for part in merged])
    return whole.reshape(output.info.shape)


def tensor_statistics(
    output: Output, how: Cutting, *, check: bool, read: Callable[[Piece], Stack] | None = None
) -> dict[int, Any]:
    """Run the measures of one tensor; return fresh statistics for one more pass over it.

    ``read`` returns a piece of all experts; from `load` if None.
    """
    found: dict[int, tuple[Measure, Any]] = {}
    for index, measure in how.slicewise.items():
        accumulated: Any = None
        for round_ in range(measure.rounds):
            accumulated = measure.start(round_, accumulated)
            known = {i: m.done(a) for i, (m, a) in found.items()}
            for piece in pieces(output.info, how):
                stack = load(output, piece, check=check)[1] if read is None else read(piece)
                stack = apply_steps(output, stack, known, upto=index)
                accumulated = measure.see(accumulated, stack)
        found[index] = (measure, accumulated)
    return {i: m.done(a) for i, (m, a) in found.items()}


def _measure(
    plan: MergePlan, chain: Chain, outputs: list[Output], nan: Nan, ticks: _Ticks
) -> dict[int, Any]:
    """Run every barrier step's rounds; return the statistics by index of step."""
    statistics: dict[int, Any] = {}
    for index, step in enumerate(chain.steps):
        if step.measure is None:
            continue
        accumulated: Any = None
        for round_ in range(step.measure.rounds):
            accumulated = step.measure.start(round_, accumulated)
            for output in outputs:
                for piece in pieces(output.info, plan.cutting(output)):
                    _, stack = load(output, piece, check=nan == "refuse")
                    stack = apply_steps(output, stack, statistics, upto=index)
                    accumulated = step.measure.see(accumulated, stack)
                ticks.tick()
        statistics[index] = step.measure.done(accumulated)
    return statistics


class _Ticks:
    """Counts tensors for the listener."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def tick(self) -> None:
        self.done += 1
        self.progress("merge", self.done, self.total)
