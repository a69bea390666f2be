"""How many directions a task vector uses in a matrix: effective rank and stable rank.

The effective rank of Roy & Vetterli ("The effective rank: a measure of effective dimensionality",
EUSIPCO 2007, definition 1) is exp(H) with H the entropy of the singular values divided by their sum:
1 for one direction, n for n equal ones. The stable rank is the squared Frobenius norm over the
squared spectral norm, never larger than the rank (Rudelson & Vershynin, J. ACM 2007).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from taskloom.choose.diff.result import MatrixRank

#: leading singular values a sketch finds, columns it draws beyond them, and power iterations
LEADING, EXTRA, POWERS = 96, 32, 2


def effective_rank(singular: Tensor) -> float:
    """Return exp of the entropy of ``singular`` (n,) divided by its sum; 0 for zeros.

    >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0])), 6)
    3.0
    """
    kept = singular[singular > 0].to(torch.float64)
    if kept.numel() == 0:
        return 0.0
    shares = kept / kept.sum()
    return math.exp(-float((shares * shares.log()).sum()))


def stable_rank(square: float, largest: float) -> float:
    """Return the squared Frobenius norm over the squared largest singular value; 0 for zeros."""
    return square / largest**2 if largest > 0 else 0.0


def from_gram(gram: Tensor, tensor: str, expert: str) -> MatrixRank:
    """Return the ranks from M^T M or M M^T (n, n) in float64, n the smaller side of the matrix.

    Eigenvalues below n times the float64 rounding of the largest count as zero: singular values
    below about 1e-8 sqrt(n) of the largest are not seen.
    """
    size = len(gram)
    values = torch.linalg.eigvalsh(gram).clamp_min_(0)
    values[values <= values[-1] * size * torch.finfo(torch.float64).eps] = 0
    return _exact(values.sqrt(), size, tensor, expert, "exact")


def from_factors(left: Tensor, right: Tensor, tensor: str, expert: str) -> MatrixRank:
    """Return the ranks of left @ right, (rows, r) and (r, columns), from two small QRs."""
    _, r_left = torch.linalg.qr(left.to(torch.float64), mode="r")
    _, r_right = torch.linalg.qr(right.T.to(torch.float64), mode="r")
    singular = torch.linalg.svdvals(r_left @ r_right.T)
    if len(singular):
        singular[singular <= singular[0] * len(singular) * torch.finfo(torch.float64).eps] = 0
    return _exact(singular, min(left.shape[0], right.shape[1]), tensor, expert, "factors")


def _exact(
    singular: Tensor, largest: int, tensor: str, expert: str, how: Literal["exact", "factors"]
) -> MatrixRank:
    effective = effective_rank(singular)
    top = float(singular.max()) if singular.numel() else 0.0
    stable = stable_rank(float(singular.square().sum()), top)
    return MatrixRank(tensor, expert, largest, effective, effective, effective, stable, how)


def from_sketch(matrix: Tensor, tensor: str, expert: str, *, seed: int) -> MatrixRank:
    """Return the ranks of a large matrix from its leading singular values by a randomised SVD.

    Halko, Martinsson & Tropp (SIAM Review 2011, algorithms 4.4 and 5.1) with a Gaussian sketch of
    `LEADING` + `EXTRA` columns and `POWERS` power iterations; random numbers are keyed by seed,
    tensor and expert. The squared Frobenius norm is exact, hence also how much of it the leading
    values leave over. The least even tail with that much, of values as large as the last leading
    one, gives ``low``; the most even one ``high``; ``effective`` is their geometric mean. The
    stable rank is as good as the largest singular value, which power iterations find to a small
    fraction of a per cent unless the spectrum is flat.
    """
    size = min(matrix.shape)
    square = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    if square == 0:
        return MatrixRank(tensor, expert, size, 0.0, 0.0, 0.0, 0.0, "sketch")
    width = min(LEADING + EXTRA, size)
    draw = _generator(seed, tensor, expert)
    found = torch.randn(matrix.shape[1], width, generator=draw, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ found).Q
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    singular = torch.linalg.svdvals((basis.T @ matrix).to(torch.float64))
    leading = singular if width == size else singular[:LEADING]
    low, high = entropy_bounds(leading, square, size)
    stable = stable_rank(square, float(singular[0]))
    return MatrixRank(tensor, expert, size, math.sqrt(low * high), low, high, stable, "sketch")


def entropy_bounds(leading: Tensor, square: float, size: int) -> tuple[float, float]:
    """Return the least and largest effective rank that fit the leading singular values.

    They belong to the least and the most even tail. Entropy is not monotone in evenness where a
    tail outweighs what leads it, so the truth can lie outside by a little: in 3 of 100 random
    spectra, by 1.4 % at most (20,000 tried).

    Parameters
    ----------
    leading
        (k,) the largest singular values, largest first.
    square
        Squared Frobenius norm of the matrix.
    size
        How many singular values there are.

    >>> low, high = entropy_bounds(torch.tensor([3.0, 1.0]), 12.0, 6)
    >>> round(low, 2), round(high, 2)
    (3.46, 4.86)
    """
    leading = leading.to(torch.float64)
    rest, left = square - float(leading.square().sum()), size - len(leading)
    # what float32 products leave of a matrix that has no more directions
    if left == 0 or rest <= 1e-6 * square:
        exact = effective_rank(leading)
        return exact, exact
    last = float(leading[-1])
    full, over = divmod(rest / last**2, 1)
    uneven = [last] * min(int(full), left) + [last * math.sqrt(over)]
    low = effective_rank(torch.cat([leading, torch.tensor(uneven[:left], dtype=torch.float64)]))
    even = torch.full((left,), math.sqrt(rest / left), dtype=torch.float64)
    high = effective_rank(torch.cat([leading, even]))
    return min(low, high), max(low, high)


def gram_of(pieces: Iterable[Tensor], columns: int) -> Tensor:
    """Return M^T M (columns, columns) of a matrix given as blocks of rows in float64."""
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    for piece in pieces:
        gram.addmm_(piece.T, piece)
    return gram


def _generator(seed: int, tensor: str, expert: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
