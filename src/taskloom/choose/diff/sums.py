"""Sums over slices, from which every number but the ranks is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.choose.diff.result import PerExpert, PerPair, Region
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.pool import Pool


@dataclass
class Sums:
    """What adds up over slices and tensors; integers exactly, products in float64.

    Attributes
    ----------
    gram
        (K + 1, K + 1) inner products of the base (first) and the K task vectors.
    both, opposite
        (K, K) numbers changed by both experts, and those of them with opposite signs.
    shared, contested
        Numbers changed by two or more experts, and those of them whose signs do not all agree.
    unequal
        (K + 1, K + 1) whether the base (first) and the experts differ in at least one number.
    tensors, parameters
        How much was added.
    """

    gram: NDArray[np.float64]
    both: NDArray[np.int64]
    opposite: NDArray[np.int64]
    unequal: NDArray[np.bool_]
    shared: int = 0
    contested: int = 0
    tensors: int = 0
    parameters: int = 0

    @classmethod
    def zero(cls, experts: int) -> Sums:
        """Return the sums of nothing for K experts."""
        k, one = (experts, experts), (experts + 1, experts + 1)
        return cls(np.zeros(one), np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(one, np.bool_))

    def add(self, other: Sums) -> None:
        """Add what another part of the model has."""
        self.gram += other.gram
        self.both += other.both
        self.opposite += other.opposite
        self.unequal |= other.unequal
        self.shared += other.shared
        self.contested += other.contested
        self.tensors += other.tensors
        self.parameters += other.parameters

    def see(self, base: Tensor, taus: Tensor) -> None:
        """Add a slice: ``base`` (n,) and task vectors ``taus`` (K, n), float64."""
        rows = torch.cat([base[None], taus])
        self.gram += (rows @ rows.T).numpy()
        signs = taus.sign()
        nonzero = signs.abs()
        both, signed = (nonzero @ nonzero.T).numpy(), (signs @ signs.T).numpy()
        self.both += both.astype(np.int64)
        self.opposite += np.round((both - signed) / 2).astype(np.int64)
        sharing = nonzero.sum(0) >= 2
        clash = ((signs > 0).any(0) & (signs < 0).any(0))[sharing]
        self.shared += int(sharing.sum())
        self.contested += int(clash.sum())
        self.parameters += base.numel()
        self._compare([torch.zeros_like(base), *taus])

    def _compare(self, offsets: list[Tensor]) -> None:
        for i, first in enumerate(offsets):
            for j, second in enumerate(offsets[:i]):
                if not self.unequal[i, j] and not torch.equal(first, second):
                    self.unequal[i, j] = self.unequal[j, i] = True


def slices(info: TensorInfo, elements: int) -> Iterator[slice | None]:
    """Yield rows along axis 0 of about so many elements, at least one row; None for a scalar."""
    if not info.shape or info.numel <= elements:
        yield None
        return
    step = max(1, elements * info.shape[0] // info.numel)
    for first in range(0, info.shape[0], step):
        yield slice(first, min(first + step, info.shape[0]))


def read_slice(pool: Pool, name: str, rows: slice | None) -> tuple[Tensor, list[Tensor]]:
    """Return a slice of the base and of every expert in float64, shaped as stored.

    float64 holds every smaller dtype and their differences without rounding.
    """
    assert pool.base is not None
    return _wide(pool.base.read(name, rows)), [_wide(e.checkpoint.read(name, rows)) for e in pool]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float64)


def region(row: str, column: str, sums: Sums, ranks: Iterable[tuple[PerExpert, ...]]) -> Region:
    """Turn sums into the numbers people read.

    Parameters
    ----------
    ranks
        For each matrix of the region (effective, stable, share of the largest), each (K,).
    """
    base_square, taus = float(sums.gram[0, 0]), sums.gram[1:, 1:]
    squares, along = taus.diagonal(), sums.gram[0, 1:]
    experts = base_square + 2 * along + squares
    norms = np.sqrt(np.outer(squares, squares))
    effective, stable, share = _means(list(ranks), len(squares))
    return Region(
        row=row,
        column=column,
        tensors=sums.tensors,
        parameters=sums.parameters,
        base_norm=float(np.sqrt(base_square)),
        relative_norm=tuple(_ratio(np.sqrt(s), np.sqrt(base_square)) for s in squares),
        base_cosine=tuple(
            _cosine(base_square + a, np.sqrt(base_square * max(e, 0.0)))
            for a, e in zip(along, experts, strict=True)
        ),
        cosines=_pairs(taus, norms, cosine=True),
        sign_conflict=_pairs(sums.opposite, sums.both),
        any_conflict=_ratio(sums.contested, sums.shared),
        effective_rank=effective,
        stable_rank=stable,
        rank_share=share,
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _cosine(product: float, norms: float) -> float | None:
    ratio = _ratio(product, norms)
    return None if ratio is None else min(1.0, max(-1.0, ratio))


def _pairs(parts: NDArray, wholes: NDArray, *, cosine: bool = False) -> PerPair:  # type: ignore[type-arg]
    make = _cosine if cosine else _ratio
    return tuple(
        tuple(make(float(p), float(w)) for p, w in zip(line, whole, strict=True))
        for line, whole in zip(parts, wholes, strict=True)
    )


def _means(ranks: list[tuple[PerExpert, ...]], experts: int) -> tuple[PerExpert, ...]:
    if not ranks:
        return ((None,) * experts,) * 3
    means = np.asarray(ranks, dtype=np.float64).mean(axis=0)
    return tuple(tuple(float(v) for v in line) for line in means)
