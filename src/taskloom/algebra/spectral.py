"""Singular vectors of tall or wide matrices, in float64, with little more memory than the matrix takes.

A float32 matrix of smaller side n is decomposed through its n x n Gram matrix, summed in float64 over
blocks of rows: singular values down to about 1e-7 of the largest come out right, which is what
float32 weights hold. Vectors of smaller ones are rounding, so the numerical rank is cut at
``max(rows, columns) * 1.2e-7`` of the largest. A float64 matrix goes through LAPACK's own
decomposition and is cut at ``max(rows, columns) * 2.2e-16``. Nothing is randomised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from taskloom.lazy import Tensor, torch

#: rows converted to float64 at a time
BLOCK = 256
#: eigenvalues of a Gram matrix of unit vectors below this are linear dependence
_DEPENDENT = 1e-12


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets, largest first, or those of several matrices side by side.

    Attributes
    ----------
    left, values, right
        ``(rows, k)``, ``(k,)``, ``(columns, k)``, float64.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def turned(self) -> Triplets:
        """Those of the transposed matrix."""
        return Triplets(self.right, self.values, self.left)


def leading(matrix: Tensor, count: int) -> Triplets:
    """Return at most ``count`` singular triplets, never more than the numerical rank.

    Examples
    --------
    >>> found = leading(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), 2)
    >>> [round(x, 6) for x in found.values.tolist()]
    [3.0, 2.0]
    """
    return gather([(matrix, count)], (matrix.shape[0], matrix.shape[1]))


def gather(matrices: Iterable[tuple[Tensor, int]], shape: tuple[int, int], room: int = 0) -> Triplets:
    """Return the leading triplets of several matrices side by side, without a second copy.

    Parameters
    ----------
    matrices
        Each with the number of triplets wanted; fewer where its numerical rank is lower.
    shape
        Of every matrix.
    room
        Triplets in all; needed for more than one matrix.
    """
    rows, columns = shape
    if rows < columns:
        return gather(((m.T, k) for m, k in matrices), (columns, rows), room).turned
    found: Triplets | None = None
    used = 0
    for matrix, count in matrices:
        if found is None:
            room = room or min(count, columns)
            found = Triplets(
                *(matrix.new_empty(size, dtype=torch.float64) for size in _sizes(shape, room))
            )
        used += _take(matrix, count, found, used)
    if found is None:
        raise ValueError("gather takes one matrix or more")
    return Triplets(found.left[:, :used], found.values[:used], found.right[:, :used])


def _sizes(shape: tuple[int, int], room: int) -> tuple[tuple[int, ...], ...]:
    return (shape[0], room), (room,), (shape[1], room)


def _take(matrix: Tensor, count: int, into: Triplets, used: int) -> int:
    """Write a matrix's leading triplets behind those that are there; return how many."""
    rows = len(matrix)
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = min(count, numerical_rank(values, rows, torch.finfo(torch.float64).eps))
        into.left[:, used : used + kept] = left[:, :kept]
        into.right[:, used : used + kept] = right[:kept].T
    else:
        values, vectors = right_vectors(matrix)
        kept = min(count, len(values))
        into.right[:, used : used + kept] = vectors[:, :kept]
        scaled = vectors[:, :kept] / values[:kept]
        for block in blocks(rows):
            into.left[block, used : used + kept] = matrix[block].double() @ scaled
    into.values[used : used + kept] = values[:kept]
    return kept


def right_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return singular values and right singular vectors of a float32 matrix within its rank."""
    squares, vectors = _eigen(gram(matrix))
    values = squares.sqrt()
    kept = numerical_rank(values, max(matrix.shape), torch.finfo(torch.float32).eps)
    return values[:kept], vectors[:, :kept]


def flattened(matrix: Tensor) -> Tensor:
    """Return the matrix with every singular value within its numerical rank set to their mean."""
    if matrix.shape[0] < matrix.shape[1]:
        return flattened(matrix.T).T
    if matrix.dtype == torch.float64:
        found = leading(matrix, matrix.shape[1])
        mean = found.values.mean() if len(found.values) else 0.0
        return product(found.left * mean, found.right.T, matrix)
    values, vectors = right_vectors(matrix)
    if not len(values):
        return torch.zeros_like(matrix)
    return product(matrix, (vectors * (values.mean() / values)) @ vectors.T, matrix)


def numerical_rank(values: Tensor, side: int, eps: float) -> int:
    """Count the singular values above ``side * eps`` of the largest (none if that is 0)."""
    if not len(values) or not float(values[0]) > 0:
        return 0
    return int((values > float(values[0]) * side * eps).sum())


def gram(matrix: Tensor) -> Tensor:
    """Return ``matrix.T @ matrix`` in float64."""
    found = matrix.new_zeros((matrix.shape[1], matrix.shape[1]), dtype=torch.float64)
    for block in blocks(len(matrix)):
        rows = matrix[block].double()
        found.addmm_(rows.T, rows)
    return found


def blocks(rows: int) -> Iterator[slice]:
    """Yield slices of at most `BLOCK` rows."""
    return (slice(at, min(at + BLOCK, rows)) for at in range(0, rows, BLOCK))


def inverse_root(square: Tensor) -> Tensor:
    """Return ``square ** (-1/2)`` on its range, 0 beyond: with it ``U -> U (U^T U)^(-1/2)``.

    That is the closest matrix to U with orthonormal columns (Procrustes); where columns of U depend
    on each other there are many such, and this one is the partial isometry, which adds no direction
    that U does not have.
    """
    values, vectors = _eigen(square)
    kept = int((values > _DEPENDENT * values[0]).sum()) if len(values) else 0
    vectors = vectors[:, :kept]
    return (vectors / values[:kept].sqrt()) @ vectors.T


def whitened(found: Triplets, values: Tensor, like: Tensor) -> Tensor:
    """Return ``U' diag(values) V'^T``, U' and V' the vectors made orthonormal.

    Parameters
    ----------
    found
        c triplets, whose values are not looked at.
    values
        ``(c,)``.
    like
        Has the shape and the dtype of the result.
    """
    core = inverse_root(gram(found.left)) * values @ inverse_root(gram(found.right))
    return product(found.left, core @ found.right.T, like)


def product(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Return ``left @ right``, multiplied in float64, in the dtype of ``like``, by blocks of rows."""
    found = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    for block in blocks(len(left)):
        found[block] = left[block].double() @ right
    return found


def _eigen(square: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, largest first and not below 0, and the vectors."""
    values, vectors = torch.linalg.eigh(square)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def cosines(values: Tensor) -> Tensor:
    """``(K, ...) -> (K, K)`` float64 cosines of the rows; 0 with rows of zeros."""
    flat = values.reshape(len(values), -1)
    square = flat.new_zeros((len(flat), len(flat)), dtype=torch.float64)
    largest = float(flat.abs().max()) if flat.numel() else 0.0
    step = BLOCK * BLOCK
    for at in range(0, flat.shape[1], step):
        part = flat[:, at : at + step].double() / (largest or 1.0)
        square.addmm_(part, part.T)
    norms = square.diagonal().sqrt()
    inverse = torch.where(norms > 0, 1.0 / torch.where(norms > 0, norms, 1.0), 0.0)
    return square * inverse * inverse[:, None]


@contextmanager
def one_thread() -> Iterator[None]:
    """Make the libraries below torch use one thread, so that their sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_matrix(skip: Sequence[str]) -> Callable[[str, tuple[int, ...]], bool]:
    """Tell the 2-d tensors that hold something and whose name has none of the parts in it.

    >>> decide = is_matrix(("text_projection",))
    >>> decide("fc.weight", (3, 2)), decide("text_projection", (3, 2)), decide("fc.bias", (3,))
    (True, False, False)
    """
    parts = tuple(skip)

    def decide(name: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and min(shape) > 0 and not any(part in name for part in parts)

    return decide
