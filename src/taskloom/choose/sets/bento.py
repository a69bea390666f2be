"""BenTo: the few tasks of a benchmark that stand for it, told by how tasks transfer."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.set_choice import SetChoice, checked_size, checked_table
from taskloom.choose.sets.facility_location import located
from taskloom.errors import DataError, NumericalError
from taskloom.registry import register


@register("set", paper="Zhao et al., BenTo, 2024 (2410.13804), section 4")
def bento(
    transfer: ArrayLike,
    *,
    size: Annotated[int, Field(ge=1)] = 4,
    eigenvectors: Annotated[int, Field(ge=1)] | None = None,
) -> SetChoice:
    """Take tasks whose transfer to all others is like that of the tasks left out.

    Columns are centred, rows compared by Euclidean distance D, and facility location chooses by
    ``1.5 max(D) - D``.

    Where paper, code and we differ: the released script (tianyi-lab/BenTo) hands every eigenvector of
    the normalised Laplacian to a library that compares rows by itself; rows of a whole orthogonal matrix
    are all equally unlike, so that nothing is left to choose by. We compare the distances above, or,
    with ``eigenvectors``, only that many leading eigenvectors, by the same rule.

    Parameters
    ----------
    transfer
        ``(S, T)`` what source s gives on target t; the candidates are the rows.
    size
        How many tasks to keep.
    eigenvectors
        Compare so many eigenvectors of the smallest eigenvalues instead of the transfer itself.

    Raises
    ------
    DataError
        No table, or sizes that do not fit.
    NumericalError
        NaN or infinity, or sources that transfer all alike.

    Examples
    --------
    >>> bento([[0.9, 0.5, 0.2], [0.8, 0.6, 0.1], [0.1, 0.2, 0.9]], size=2).chosen
    (0, 2)
    """
    table = checked_table("bento", "transfer", transfer)
    checked_size("bento", size, len(table))
    alike = likeness(table)
    if eigenvectors is not None:
        if eigenvectors > len(table):
            raise DataError(
                f"bento: expected at most {len(table)} eigenvectors, found {eigenvectors}",
                hint="Ask for fewer, or none",
            )
        alike = likeness(spectral(alike)[:, :eigenvectors], centre=False)
    return located(alike, size)


def likeness(rows: Floats, *, centre: bool = True) -> Floats:
    """Return ``(K, K)`` values 1.5 max(D) - D of the rows' distances D.

    Examples
    --------
    >>> likeness(np.array([[0.9, 0.5, 0.2], [0.8, 0.6, 0.1], [0.1, 0.2, 0.9]])).round(6)[0].tolist()
    [1.703673, 1.530467, 0.599136]
    """
    centred = rows - rows.mean(0) if centre else rows
    apart = np.sqrt(np.stack([((centred - row) ** 2).sum(1) for row in centred]))
    if apart.max() == 0:
        raise NumericalError(
            "bento: expected sources that transfer differently, found all rows equal",
            hint="Give a table of measured scores",
        )
    found: Floats = 1.5 * apart.max() - apart
    return found


def spectral(alike: Floats) -> Floats:
    """Return eigenvectors (columns) of the normalised Laplacian, smallest eigenvalue first.

    The diagonal is left out, as scipy does; the largest entry of each eigenvector is made positive.
    """
    weights = alike - np.diag(alike.diagonal())
    root = 1 / np.sqrt(weights.sum(1))
    _, vectors = np.linalg.eigh(np.eye(len(alike)) - root[:, None] * weights * root)
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(vectors))])
    found: Floats = vectors * signs
    return found
