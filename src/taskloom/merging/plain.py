"""One slice of one output by the steps as they are written, with torch: what every kernel must equal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from taskloom.algebra import Stack
from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.lazy import Tensor, torch
from taskloom.merging.program import Output, Ref
from taskloom.merging.slices import Piece
from taskloom.merging.statistics import Beside

#: what NaN and infinity in an input lead to
Nan = Literal["refuse", "allow"]
#: values looked at in one go when non-finite ones are counted for a message
_LOOK = 1 << 22


def read_piece(ref: Ref, piece: Piece) -> Tensor:
    """Return a piece of a stored tensor in its stored dtype.

    Checkpoints that have no ``read_range`` are asked for the rows that hold it.
    """
    info = ref.info
    if piece.count == info.numel:
        return ref.checkpoint.read(ref.name).reshape(piece.shape)
    ranged = getattr(ref.checkpoint, "read_range", None)
    if ranged is not None:
        found: Tensor = ranged(ref.name, piece.start, piece.stop)
        return found.reshape(piece.shape)
    row = info.numel // info.shape[0]
    first, last = piece.start // row, -(-piece.stop // row)
    rows = ref.checkpoint.read(ref.name, slice(first, last)).reshape(-1)
    return rows[piece.start - first * row : piece.stop - first * row].reshape(piece.shape)


def load(output: Output, piece: Piece, *, check: bool) -> tuple[Tensor | None, Stack]:
    """Read a slice of every source; subtract the base where the chain works on task vectors.

    Raises
    ------
    NumericalError
        ``check``, and there is NaN or infinity in it.
    """
    delta = output.chain is not None and output.chain.space == "delta"
    source = output.base if delta else None
    double = any(ref.info.kind == "float64" for ref in output.sources)
    wide = torch.float64 if double else torch.float32
    values = _stacked([*output.experts], piece, wide)
    if check:
        for name, ref, row in zip(output.names, output.experts, values, strict=True):
            if count_nonfinite(row):
                raise nonfinite(ref, f"expert {name!r}")
    base = None if source is None else read_piece(source, piece).to(wide)
    if base is not None and source is not None:
        if check and count_nonfinite(base):
            raise nonfinite(source, "the base")
        tracked = base.requires_grad or values.requires_grad
        values = values - base if tracked else values.sub_(base)
    known = {
        each.need.kind: read_statistic(output, each, piece, wide, check=check)
        for each in output.beside
        if each.need.how != "table"
    }
    tables = {each.need.kind: each.tables for each in output.beside}
    return base, Stack(output.name, values, output.names, piece.start, output.info.numel, known, tables)


def _stacked(refs: Sequence[Ref], piece: Piece, dtype: torch.dtype) -> Tensor:
    """Return a piece of every source as a row of ``dtype``, with one of them in memory beside the rows.

    Where a gradient is wanted all are, since it goes through each.
    """
    first = read_piece(refs[0], piece)
    if torch.is_grad_enabled() and first.requires_grad:
        return torch.stack([t.to(dtype) for t in (first, *(read_piece(r, piece) for r in refs[1:]))])
    values = torch.empty((len(refs), *first.shape), dtype=dtype, device=first.device)
    values[0] = first
    for row, ref in enumerate(refs[1:], start=1):
        first = read_piece(ref, piece)
        values[row] = first
    return values


def read_statistic(
    output: Output, beside: Beside, piece: Piece, dtype: torch.dtype, *, check: bool
) -> Tensor:
    """Return one statistic of every expert: ``(K, *piece)``, or whole tensors of the weight's name.

    Raises
    ------
    NumericalError
        ``check``, and there is NaN or infinity in it.
    CheckpointError
        Whole tensors whose shapes differ between the experts.
    """
    found: Tensor | None = None
    name = output.experts[0].name
    for k, (expert, statistic) in enumerate(zip(output.names, beside.statistics, strict=True)):
        ref = Ref(statistic.checkpoint, name)
        read = ref.checkpoint.read(name) if beside.need.how == "whole" else read_piece(ref, piece)
        row = read.to(dtype)
        if check and count_nonfinite(row):
            raise nonfinite(ref, f"the statistic {statistic.kind!r} of the expert {expert!r}")
        if found is None:
            found = torch.empty((len(output.names), *row.shape), dtype=dtype, device=row.device)
        if found[0].shape != row.shape:
            raise CheckpointError(
                f"statistic {statistic.kind!r} of the expert {expert!r} ({statistic.label}): tensor "
                f"{name!r}: expected shape {list(found[0].shape)}, found {list(row.shape)}",
                hint="Collect it on this expert",
            )
        found[k] = row
    if found is None:
        raise ValueError(f"output {output.name!r} has no experts")
    return found


def apply_steps(
    output: Output, stack: Stack, statistics: Mapping[int, Any], *, upto: int | None = None
) -> Stack:
    """Apply the chain's steps, or the first ``upto`` of them."""
    if output.chain is not None:
        for index, step in enumerate(output.chain.steps[:upto]):
            stack = step.apply(stack, statistics.get(index))
    return stack


def finish(base: Tensor | None, stack: Stack, dtype: torch.dtype, nan: Nan = "refuse") -> Tensor:
    """Add the merged row to the base and cast it.

    Raises
    ------
    PlanError
        More than one row is left.
    NumericalError
        A value that the dtype cannot hold.
    """
    merged, cast = settle(base, stack, dtype)
    if nan == "allow":
        return one_nan(cast)
    looked = cast.to(merged.dtype) if cast.dtype.itemsize == 1 else cast
    if count := count_nonfinite(looked):
        raise too_large(stack.name, count, str(dtype))
    return cast


def settle(base: Tensor | None, stack: Stack, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the merged row with the base added to it, and the same cast, unchecked.

    Raises
    ------
    PlanError
        More than one row is left.
    """
    if len(stack.values) != 1:
        raise PlanError(
            f"the recipe ends with {len(stack.values)} rows for tensor {stack.name!r} instead of one",
            hint="End the chain with an aggregate such as total or mean",
        )
    merged = stack.values[0] if base is None else base + stack.values[0]
    return merged, merged.to(dtype)


def one_nan(cast: Tensor) -> Tensor:
    """Return the tensor with one and the same NaN: torch makes different ones at different places."""
    wide = cast.to(torch.float32) if cast.dtype.itemsize == 1 else cast
    return torch.where(torch.isnan(wide), math.nan, wide).to(cast.dtype)


def too_large(name: str, count: int, dtype: str) -> NumericalError:
    """Return the error for merged values that the output's dtype cannot hold."""
    return NumericalError(
        f"{count} merged values of tensor {name!r} are too large for {dtype}",
        hint="Scale the merge down, or write a wider dtype",
    )


def count_nonfinite(tensor: Tensor) -> int:
    """Count NaN and infinity; a finite sum says there are none, which is quicker than looking."""
    values = tensor.detach()
    return 0 if bool(torch.isfinite(values.sum())) else int((~torch.isfinite(values)).sum())


def nonfinite(ref: Ref, owner: str) -> NumericalError:
    """Return the error for a source with NaN or infinity, counted over the whole tensor."""
    count, info = 0, ref.info
    for start in range(0, info.numel, _LOOK):
        stop = min(start + _LOOK, info.numel)
        values = read_piece(ref, Piece(start, stop, (stop - start,)))
        count += count_nonfinite(values.to(torch.float64))
    return NumericalError(
        f"tensor {ref.name!r} of {owner} ({ref.checkpoint.label}) holds {count} NaN or infinite values",
        hint="A merge would spread them; repair or leave out that checkpoint, or allow NaN by name "
        "(--nan allow)",
    )
