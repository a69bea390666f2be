"""What a model decides, as a vector, whatever its classes are called and however many there are.

A model answers probe inputs with probabilities; the vector holds how alike its answers to every two of
them are. Two models that draw the same borders have the same vector. A data set has one, too: that of a
classifier fitted to it. Only answers are looked at, so a model may sit behind an interface.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats, Ints, checked_probabilities
from taskloom.errors import DataError


def knowledge_vector(probabilities: ArrayLike) -> Floats:
    """Return ``(P (P - 1) / 2,)``: the Bhattacharyya coefficient of the answers to every two probes.

    Parameters
    ----------
    probabilities
        ``(P, S)`` of P probe inputs, two or more.

    Raises
    ------
    DataError
        No probabilities, or fewer than two probes.

    Examples
    --------
    >>> knowledge_vector([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).round(6).tolist()
    [0.0, 0.707107, 0.707107]
    """
    given = np.asarray(probabilities, dtype=np.float64)
    table = checked_probabilities("knowledge", given, len(given))
    if len(table) < 2:
        raise DataError(
            f"knowledge: expected two probe inputs or more, found {len(table)}",
            hint="Give more unlabeled inputs",
        )
    roots = np.sqrt(table)
    found: Floats = np.minimum(roots @ roots.T, 1.0)[np.triu_indices(len(table), 1)]
    return found


def boundary_probes(answers: Sequence[ArrayLike], count: int) -> Ints:
    """Return the inputs that models are least sure of, ascending: those that lie near their borders.

    Parameters
    ----------
    answers
        K times ``(N, S_k)`` probabilities of the same N inputs.
    count
        How many probes; all inputs if there are fewer.

    Examples
    --------
    >>> boundary_probes([[[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]]], 2).tolist()
    [1, 2]
    """
    margins = np.zeros(len(np.asarray(answers[0])))
    for each in answers:
        table = checked_probabilities("knowledge", each, len(margins))
        top = np.sort(table, axis=1)[:, ::-1]
        margins += top[:, 0] - (top[:, 1] if table.shape[1] > 1 else 0.0)
    nearest: Ints = np.sort(np.argsort(margins, kind="stable")[:count])
    return nearest
