"""The ranks of every matrix, one matrix of one expert at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from taskloom.choose.diff import rank
from taskloom.choose.diff.result import MatrixRank
from taskloom.choose.diff.sums import slices
from taskloom.progress import Progress
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.pool import Expert, Pool

#: a matrix whose smaller side is no larger is decomposed exactly
EXACT = 1024


def matrix_names(pool: Pool) -> list[str]:
    """Name the floating point tensors with two axes of two or more, in the base's order."""
    return [n for n in pool.parameters() if len(s := pool.tensors[n].shape) == 2 and min(s) > 1]


def held_whole(info: TensorInfo, exact: int) -> bool:
    """Tell whether a matrix must be in memory whole: all but tall ones that are decomposed exactly."""
    rows, columns = info.shape
    return columns > rows or columns > exact


def announce(pool: Pool, names: Sequence[str], exact: int) -> list[str]:
    """Say what the ranks will hold in memory and which are estimates, from shapes alone."""
    infos = [pool.tensors[name] for name in names]
    whole = [info for info in infos if held_whole(info, exact)]
    notes = []
    if whole:
        largest = max(_working_bytes(info, exact) for info in whole)
        notes.append(
            f"ranks: {len(whole)} of {len(infos)} matrices are held in memory whole, one of one expert "
            f"at a time, the largest in {largest / 1e6:,.3g} MB"
        )
    sketched = sum(min(info.shape) > exact for info in infos)
    if sketched:
        notes.append(
            f"ranks: {sketched} of {len(infos)} matrices are larger than {exact} on both sides; their "
            "effective ranks are estimates that stand with the least and largest they can be"
        )
    return notes


def _working_bytes(info: TensorInfo, exact: int) -> int:
    """Bytes of one task vector beside the base: float64 where exact, else float32."""
    return info.numel * 2 * (4 if min(info.shape) > exact else 8)


def rank_all(
    pool: Pool,
    names: Sequence[str],
    *,
    exact: int,
    slice_elements: int,
    seed: int,
    progress: Progress,
) -> list[MatrixRank]:
    """Return the ranks of every named matrix for every expert, in order."""
    found: list[MatrixRank] = []
    for number, name in enumerate(names, start=1):
        found += [_rank(pool, expert, name, exact, slice_elements, seed) for expert in pool]
        progress("rank matrices", number, len(names))
    return found


def _rank(
    pool: Pool, expert: Expert, name: str, exact: int, slice_elements: int, seed: int
) -> MatrixRank:
    info = pool.tensors[name]
    factors = _factors(pool, expert, name)
    if factors is not None:
        return rank.from_factors(*factors, name, expert.name)
    if min(info.shape) > exact:
        delta = _delta(pool, expert, name, None, torch.float32)
        return rank.from_sketch(delta, name, expert.name, seed=seed)
    if held_whole(info, exact):
        delta = _delta(pool, expert, name, None, torch.float64)
        return rank.from_gram(delta @ delta.T, name, expert.name)
    pieces = _pieces(pool, expert, name, slice_elements)
    return rank.from_gram(rank.gram_of(pieces, info.shape[1]), name, expert.name)


def _factors(pool: Pool, expert: Expert, name: str) -> tuple[Tensor, Tensor] | None:
    """Return B and A of a LoRA on this base, scaled: what rounding to the base's dtype would blur."""
    source = expert.checkpoint
    if not isinstance(source, AdapterCheckpoint) or source.base is not pool.base:
        return None
    found = source.factors(name)
    if found is None:
        return None
    left, right, scaling = found
    return left.to(torch.float64) * scaling, right.to(torch.float64)


def _pieces(pool: Pool, expert: Expert, name: str, elements: int) -> Iterator[Tensor]:
    for rows in slices(pool.tensors[name], elements):
        yield _delta(pool, expert, name, rows, torch.float64)


def _delta(pool: Pool, expert: Expert, name: str, rows: slice | None, dtype: torch.dtype) -> Tensor:
    assert pool.base is not None
    tuned = expert.checkpoint.read(name, rows).detach().cpu().to(dtype)
    return tuned - pool.base.read(name, rows).detach().cpu().to(dtype)
