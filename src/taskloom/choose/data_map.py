"""Data maps: which examples are easy, hard or ambiguous, told by a model while it learns them.

Swayamdipta et al., Dataset cartography, EMNLP 2020: over epochs, the mean probability of an example's
right class is its confidence, the deviation its variability, and the share of epochs in which it is
right its correctness. `while_learned` gives such probabilities of a linear head on frozen features;
those of any other training can be given instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.choose.checks import Floats, checked
from taskloom.errors import DataError, NumericalError


@dataclass(frozen=True, eq=False)
class DataMap:
    """Where N examples lie.

    Attributes
    ----------
    confidence, variability, correctness
        ``(N,)`` in [0, 1]: mean and standard deviation (over E) of the right class's probability, and
        the share of epochs in which it is the most probable one.
    forgotten
        ``(N,)`` how often an example was right in one epoch and wrong in the next; -1 where it never was
        right.
    """

    confidence: Floats
    variability: Floats
    correctness: Floats
    forgotten: NDArray[np.int64]

    def regions(self, share: float = 1 / 3) -> list[str]:
        """Return the region of every example: the most variable ``share`` are ambiguous.

        Of the others those with a confidence of at least a half are easy, the rest hard.
        """
        count = round(share * len(self.variability))
        ambiguous = set(np.argsort(-self.variability, kind="stable")[:count].tolist())
        sure = self.confidence >= 0.5
        return [
            "ambiguous" if i in ambiguous else "easy" if sure[i] else "hard" for i in range(len(sure))
        ]


def data_map(probabilities: ArrayLike, labels: ArrayLike) -> DataMap:
    """Place N examples by the probabilities that a model gave them after each of E epochs.

    Where paper, code and we differ: correctness counts epochs in the released code
    (allenai/cartography), and is a share here; of equally probable classes the first is what the model
    says, in both. An example that never was right counts as forgotten 1,000 times there, -1 here.

    Parameters
    ----------
    probabilities
        ``(E, N, C)``, rows summing to 1; two epochs or more.
    labels
        ``(N,)`` integers in 0..C-1.

    Raises
    ------
    DataError
        Shapes that do not fit, fewer than two epochs, labels out of range, rows that are no
        probabilities.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> found = data_map([[[0.2, 0.8]], [[0.4, 0.6]], [[0.9, 0.1]]], [0])
    >>> found.confidence.round(6), found.variability.round(6), found.correctness.round(6)
    (array([0.5]), array([0.294392]), array([0.333333]))
    """
    table = np.asarray(probabilities, dtype=np.float64)
    given = np.asarray(labels)
    if table.ndim != 3 or len(table) < 2 or given.shape != table.shape[1:2] or not table.size:
        raise DataError(
            f"data map: expected probabilities (E, N, C) of two epochs or more and labels (N,), "
            f"found {table.shape} and {given.shape}",
            hint="Record what the model says of every example after every epoch",
        )
    if not np.isfinite(table).all():
        raise NumericalError("data map: expected finite probabilities, found NaN or infinity")
    if table.min() < 0 or np.abs(table.sum(2) - 1).max() > 1e-3:
        raise DataError(
            "data map: expected rows that are at least 0 and sum to 1, found others",
            hint="Pass the softmax, not the logits",
        )
    if not np.issubdtype(given.dtype, np.integer) or given.min() < 0 or given.max() >= table.shape[2]:
        raise DataError(
            f"data map: expected integer labels from 0 to {table.shape[2] - 1}, "
            f"found {given.min()} to {given.max()} of dtype {given.dtype}",
            hint="Number the classes as the columns are",
        )
    right = np.take_along_axis(table, given[None, :, None], axis=2)[..., 0]
    hits = table.argmax(2) == given
    forgotten = (hits[:-1] & ~hits[1:]).sum(0)
    return DataMap(
        right.mean(0), right.std(0), hits.mean(0), np.where(hits.any(0), forgotten, -1).astype(np.int64)
    )


def while_learned(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epochs: int = 10,
    batch_size: int = 16,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> Floats:
    """Return ``(E, N, C)`` probabilities after each epoch of learning a linear head on features.

    Softmax regression from 0 by Adam (Kingma and Ba, 2015) on standardised features. The model itself
    does not move, so the map is of how hard examples are to tell by these features, not of fine-tuning.

    Parameters
    ----------
    features
        ``(N, D)``.
    labels
        ``(N,)`` integers; classes are numbered in ascending order.
    epochs, batch_size, learning_rate, seed
        Of the training.

    Raises
    ------
    DataError, NumericalError
        See `taskloom.choose.checks.checked`.
    """
    matrix, classes, counts = checked("data map", features, labels)
    spread = matrix.std(0)
    rows = (matrix - matrix.mean(0)) / np.where(spread > 0, spread, 1.0)
    rows = np.column_stack([rows, np.ones(len(rows))])
    wanted = np.eye(len(counts))[classes]
    weights = np.zeros((rows.shape[1], len(counts)))
    first, second, step = np.zeros_like(weights), np.zeros_like(weights), 0
    random = np.random.default_rng(seed)
    found = np.empty((epochs, len(rows), len(counts)))
    for epoch in range(epochs):
        order = random.permutation(len(rows))
        for start in range(0, len(rows), batch_size):
            batch = order[start : start + batch_size]
            error = _softmax(rows[batch] @ weights) - wanted[batch]
            gradient = rows[batch].T @ error / len(batch)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
            weights = weights - learning_rate * first / (1 - 0.9**step) / scale
        found[epoch] = _softmax(rows @ weights)
    return found


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found: Floats = shifted / shifted.sum(1, keepdims=True)
    return found
