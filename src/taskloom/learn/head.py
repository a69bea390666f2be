"""A task's head: logistic regression on frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.errors import DataError, MissingExtra, NumericalError
from taskloom.models.head import Head

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID = (0.001, 0.01, 0.1, 1.0)  #: inverse penalties that cross-validation chooses from
DEFAULT_C = 0.1  #: inverse penalty where the labels are too few to choose
FEW = 5  #: a class with fewer examples than this is too small for cross-validation
CV_LIMIT = 2000  #: examples that cross-validation looks at, at most
DEAD = 1e-4  #: a feature that varies less than so much of what the middle one does hardly varies
ABSENT_BIAS = -1e4  #: logit of a class that was declared but has no example


def fit_head(
    features: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    *,
    task: str,
    seed: int = 0,
    c: float | None = None,
) -> Head:
    """Fit a multinomial logistic regression and return it as a head on the raw features.

    Features are standardised for the fit and the scaling is folded into weight and bias. Those that
    `hardly_vary` are not scaled up, which leaves them next to no weight: scaled, one that varies by 1e-7
    would get a weight of the order of 1e5, which does no harm until fine-tuning moves it. The L2
    penalty is chosen from `GRID` by the held-out log loss of a stratified cross-validation (5
    folds; of equally good ones the strongest), on at most `CV_LIMIT` examples, when every class
    that occurs has `FEW` examples or more; otherwise it is `DEFAULT_C`.

    A class that is declared but does not occur is allowed: its weights are zero and its logit is
    always `ABSENT_BIAS`, so it is never predicted.

    Parameters
    ----------
    features
        ``(N, D)``, finite.
    labels
        ``(N,)`` integers in 0..C-1; at least two different ones.
    label_names
        The C class names.
    task
        Name of the task.
    seed
        Of the folds.
    c
        Inverse penalty; None chooses it.

    Raises
    ------
    DataError
        Shapes that do not fit, labels outside 0..C-1, one class only.
    NumericalError
        NaN or infinity in the features.
    MissingExtra
        scikit-learn is not installed.
    """
    matrix, indices = _checked(features, labels, label_names, task)
    mean, scale = matrix.mean(0), matrix.std(0)
    scale[hardly_vary(matrix) | (scale <= 1e-8 * np.maximum(np.abs(mean), 1.0))] = 1.0
    standard = (matrix - mean) / scale
    strength = c if c is not None else _choose_c(standard, indices, seed)
    weight, bias, classes = _fit(standard, indices, strength)
    folded = weight / scale
    full_weight = np.zeros((len(label_names), matrix.shape[1]))
    full_bias = np.full(len(label_names), ABSENT_BIAS)
    full_weight[classes] = folded
    full_bias[classes] = bias - folded @ mean
    return Head(full_weight.astype(np.float32), full_bias.astype(np.float32), tuple(label_names), task)


def hardly_vary(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which columns (D,) of features (N, D) vary less than `DEAD` times the median of all.

    Some encoders have features that are all but constant; after fine-tuning they are a little less so.

    >>> hardly_vary(np.array([[1.0, 3.0, 5e-8], [2.0, 5.0, 7e-8]])).tolist()
    [False, False, True]
    """
    spread = features.astype(np.float64).std(0)
    found: NDArray[np.bool_] = spread <= DEAD * np.median(spread)
    return found


def check_labels(
    labels: ArrayLike, label_names: Sequence[str], *, task: str, split: str = "train"
) -> Ints:
    """Return labels as ``(N,)`` int64, refusing what is not an index into ``label_names``.

    Raises
    ------
    DataError
        Not a vector of integers, or a label outside the declared set.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise DataError(
            f"task {task!r}, {split}: expected integer labels (N,), "
            f"found dtype {given.dtype} and shape {given.shape}",
            hint="Number the classes in the order of the label names",
        )
    outside = np.flatnonzero((given < 0) | (given >= len(label_names)))
    if len(outside):
        raise DataError(
            f"task {task!r}, {split}: expected labels from 0 to {len(label_names) - 1}, "
            f"found {given[outside[0]]} in example {outside[0]}",
            hint="Declare the class or drop its examples",
        )
    return given.astype(np.int64)


def _checked(
    features: ArrayLike, labels: ArrayLike, label_names: Sequence[str], task: str
) -> tuple[Floats, Ints]:
    matrix = np.asarray(features, dtype=np.float64)
    indices = check_labels(labels, label_names, task=task)
    if matrix.ndim != 2 or len(matrix) != len(indices):
        raise DataError(
            f"head of task {task!r}: expected one row of features per label, "
            f"found {matrix.shape} and {indices.shape}"
        )
    present = np.unique(indices)
    if len(present) < 2:
        raise DataError(
            f"head of task {task!r}: expected examples of two classes or more, "
            f"found {len(present)} among {len(indices)} examples",
            hint="Label examples of another class",
        )
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(1))[0])
        raise NumericalError(
            f"head of task {task!r}: expected finite features, found NaN or infinity in row {row}",
            hint="Check the encoder's weights",
        )
    return matrix, indices


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold
    except ImportError:
        raise MissingExtra("scikit-learn", "run", purpose="fitting a head") from None
    return LogisticRegression, StratifiedKFold


@cache
def _threadpools() -> Any:
    """Return the handle on BLAS's threads; finding the libraries takes as long as a small fit."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    _sklearn()  # brings the libraries in
    return ThreadpoolController()


def _fit(standard: Floats, indices: Ints, c: float) -> tuple[Floats, Floats, Ints]:
    """Return weight ``(C', D)``, bias ``(C',)`` and the C' classes that occur."""
    from sklearn.exceptions import ConvergenceWarning

    model = _sklearn()[0](C=c, max_iter=500)
    # these products are small: more threads only wait for each other, ten times slower when shared
    with warnings.catch_warnings(), _threadpools().limit(limits=1, user_api="blas"):
        # strictly convex: stopping early leaves a slightly less sharp head, not a wrong one
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standard, indices)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: one log odds, split evenly between both logits
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias, model.classes_


def _choose_c(standard: Floats, indices: Ints, seed: int) -> float:
    counts = np.bincount(indices)
    if counts[counts > 0].min() < FEW:
        return DEFAULT_C
    folds = list(_sklearn()[1](5, shuffle=True, random_state=seed % 2**32).split(standard, indices))
    share = min(1.0, CV_LIMIT / len(indices))
    losses = []
    for c in GRID:
        loss = 0.0
        for fit, held in folds:
            fit = _thin(fit, indices, share)
            loss += _log_loss(standard, indices, fit, held, c)
        losses.append(loss)
    return GRID[int(np.argmin(losses))]


def _thin(fit: Ints, indices: Ints, share: float) -> Ints:
    """Keep the first ``share`` of each class, at least `FEW` of it."""
    if share >= 1.0:
        return fit
    kept = []
    for label in np.unique(indices[fit]):
        rows = fit[indices[fit] == label]
        kept.append(rows[: max(FEW, int(len(rows) * share))])
    return np.sort(np.concatenate(kept))


def _log_loss(standard: Floats, indices: Ints, fit: Ints, held: Ints, c: float) -> float:
    weight, bias, classes = _fit(standard[fit], indices[fit], c)
    logits = standard[held] @ weight.T + bias
    logits = logits - logits.max(1, keepdims=True)
    right = logits[np.arange(len(held)), np.searchsorted(classes, indices[held])]
    return float((np.log(np.exp(logits).sum(1)) - right).sum())
