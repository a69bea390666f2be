"""Matrices as products of two thin factors: truncation, compression, and what is lost by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.algebra.random import uniform_bits
from taskloom.errors import PlanError

#: columns drawn beyond the rank, and multiplications by M M^T, in the randomised decomposition
OVERSAMPLING, POWERS = 10, 4
#: columns of the first sketch when the rank is not known beforehand
_FIRST = 64


@dataclass(frozen=True)
class Target:
    """How much of a matrix to keep: ``rank`` directions, or a share ``energy`` of its squared norm.

    With both, ``rank`` is the limit.

    Raises
    ------
    PlanError
        A rank below 1, an energy outside (0, 1], or neither.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is None and self.energy is None:
            raise PlanError("neither a rank nor an energy is given", hint="Give one of them")
        if self.rank is not None and self.rank < 1:
            raise PlanError(f"the rank is {self.rank}, but it must be at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise PlanError(f"the energy is {self.energy!r}, a share that must lie in (0, 1]")

    def limit(self, full: int) -> int:
        """Return the largest rank allowed for a matrix of rank at most ``full``."""
        return full if self.rank is None else min(self.rank, full)

    def choose(self, squares: Tensor, total: float) -> int | None:
        """Return the rank for squared singular values, largest first; None if they do not suffice.

        At least 1, so that a module stays adapted. Energies are compared up to the rounding of a sum
        of float64 numbers.
        """
        limit = self.limit(len(squares))
        if self.energy is None:
            return limit
        kept = squares.to(torch.float64).cumsum(0)
        wanted = self.energy * total * (1 - 1e-12)
        enough = int((kept < wanted).sum()) + 1
        if enough <= limit:
            return enough
        return limit if limit == self.rank else None


@dataclass(frozen=True)
class Product:
    """``left @ right`` in place of a matrix, and how well it stands for it.

    Attributes
    ----------
    left, right
        ``(rows, rank)`` and ``(rank, columns)``; each has half of the singular values.
    norm
        Frobenius norm of the matrix.
    residual
        Frobenius norm of matrix - left @ right.
    method
        ``"exact"``, ``"randomised"`` or ``"factors"``.
    """

    left: Tensor
    right: Tensor
    norm: float
    residual: float
    method: str

    @property
    def rank(self) -> int:
        """Number of directions."""
        return int(self.left.shape[1])


def truncate(
    matrix: Tensor,
    target: Target,
    *,
    name: str = "",
    seed: int = 0,
    exact_up_to: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> Product:
    """Return the best product of the wanted rank or energy.

    Up to a smaller side of ``exact_up_to`` the full singular value decomposition is taken: its
    truncation is the closest of all matrices of that rank (Eckart and Young 1936). Above, the
    randomised one of Halko, Martinsson and Tropp (SIAM Review 2011, algorithms 4.4 and 5.1) with
    10 extra columns and 4 power iterations, orthogonalised each time; where half of all directions
    would be needed, the full one all the same. The residual is measured either way, on the factors
    as they are returned.

    Parameters
    ----------
    matrix
        ``(rows, columns)``, float32 or float64, finite.
    target
        What to keep.
    name, seed
        Key of the random numbers.
    exact_up_to
        Largest smaller side for the full decomposition.
    dtype
        Of the factors.
    """
    total = float(matrix.square().sum(dtype=torch.float64))
    side = min(matrix.shape)
    sketched = _sketched(matrix, target, total, name, seed) if side > exact_up_to else None
    if sketched is None:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        squares = s.to(torch.float64).square()
        rank = target.choose(squares, float(squares.sum())) or target.limit(side)
        method = "exact"
    else:
        u, s, v, rank = sketched
        method = "randomised"
    root = s[:rank].sqrt()
    left, right = (u[:, :rank] * root).to(dtype), (root[:, None] * v[:rank]).to(dtype)
    return Product(left, right, math.sqrt(total), residual(matrix, left, right), method)


def residual(matrix: Tensor, left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``matrix - left @ right``, in blocks of rows."""
    squares = 0.0
    left, right = left.to(matrix.dtype), right.to(matrix.dtype)
    for first in range(0, len(matrix), 256):
        rows = slice(first, first + 256)
        rest = torch.addmm(matrix[rows], left[rows], right, alpha=-1)
        squares += float(rest.square().sum(dtype=torch.float64))
    return math.sqrt(squares)


def compress(left: Tensor, right: Tensor, target: Target | None) -> Product:
    """Shorten ``left @ right`` without ever multiplying it out.

    QR of both factors, then the singular values of the small product of the two triangles, which are
    those of the large one. Computed in float64, returned in the dtype of ``left``. Cost
    ``(rows + columns) r^2`` for ``r`` directions in.

    Parameters
    ----------
    left, right
        ``(rows, r)`` and ``(r, columns)``.
    target
        What to keep; None keeps everything but directions beyond the matrix's own shape.
    """
    (q, core, p), dtype = _core(left, right), left.dtype
    u, s, v = torch.linalg.svd(core, full_matrices=False)
    squares = s.square()
    total = float(squares.sum())
    rank = len(s) if target is None else target.choose(squares, total) or target.limit(len(s))
    root = s[:rank].sqrt()
    lost = float(squares[rank:].sum())
    return Product(
        (q @ (u[:, :rank] * root)).to(dtype),
        ((root[:, None] * v[:rank]) @ p.T).to(dtype),
        math.sqrt(total),
        math.sqrt(lost),
        "factors",
    )


def product_norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``left @ right`` from the factors' Gram matrices, in float64."""
    left, right = left.to(torch.float64), right.to(torch.float64)
    return math.sqrt(max(0.0, float(((left.T @ left) * (right @ right.T)).sum())))


def _core(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, S, P with left @ right = Q S P^T, Q and P orthonormal."""
    q, upper = torch.linalg.qr(left.to(torch.float64))
    p, lower = torch.linalg.qr(right.to(torch.float64).T)
    return q, upper @ lower.T, p


def _sketched(
    matrix: Tensor, target: Target, total: float, name: str, seed: int
) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Decompose on a growing sketch; None when it would not be thinner than half the matrix."""
    side = min(matrix.shape)
    known = target.rank if target.energy is None else None
    width = (known if known is not None else min(_FIRST, target.limit(side))) + OVERSAMPLING
    while 2 * width <= side:
        q = _range(matrix, width, name, seed)
        u, s, v = torch.linalg.svd(q.T @ matrix, full_matrices=False)
        # the oversampled directions are poorly resolved and do not count
        limit = width - OVERSAMPLING
        rank = target.choose(s[:limit].square(), total)
        if rank is not None:
            return q @ u, s, v, rank
        width = min(2 * limit, target.limit(side)) + OVERSAMPLING
    return None


def _range(matrix: Tensor, width: int, name: str, seed: int) -> Tensor:
    """Orthonormal ``(rows, width)`` that nearly spans the leading left singular vectors."""
    columns = matrix.shape[1]
    bits = uniform_bits(seed, name, "sketch", 0, columns * width)
    uniform = (bits.to(torch.float64) + 0.5) / 2**32
    draw = torch.special.ndtri(uniform).to(matrix.dtype).reshape(columns, width)
    q: Tensor = torch.linalg.qr(matrix @ draw)[0]
    for _ in range(POWERS):
        q = torch.linalg.qr(matrix.T @ q)[0]
        q = torch.linalg.qr(matrix @ q)[0]
    return q
