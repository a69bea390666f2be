"""Metrics as functions of confusion counts, for thousands of bootstrap samples at once.

A registered metric is a function of labels and predictions. Those below are the same numbers from a
stack of confusion matrices; tests hold the two forms against each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import MissingExtra

Labels = NDArray[np.int64]
Counts = NDArray[np.float64]
Values = NDArray[np.float64]


def measured(function: str, labels: Labels, predictions: Labels, **options: Any) -> float:
    """Return ``sklearn.metrics.<function>(labels, predictions, **options)`` without its warnings.

    scikit-learn warns of classes that occur on one side only, or of a single class; the registered
    metrics say in their own words what they give then.

    Raises
    ------
    MissingExtra
        scikit-learn is not installed.
    """
    try:
        from sklearn import metrics
    except ModuleNotFoundError:
        raise MissingExtra("scikit-learn", "run", purpose="scoring") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(getattr(metrics, function)(labels, predictions, **options))


def _ratio(numerator: Counts, denominator: Counts) -> Counts:
    """Divide; 0 where the denominator is 0."""
    filled = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=filled, where=denominator != 0)


def _diagonal(counts: Counts) -> Counts:
    return np.diagonal(counts, axis1=1, axis2=2)


def _accuracy(counts: Counts) -> Values:
    found: Values = _diagonal(counts).sum(1) / counts.sum((1, 2))
    return found


def _macro_f1(counts: Counts) -> Values:
    size = counts.sum(1) + counts.sum(2)  # (B, C): times predicted plus times true
    found: Values = _ratio(2 * _diagonal(counts), size).sum(1) / (size > 0).sum(1)
    return found


def _balanced_accuracy(counts: Counts) -> Values:
    true = counts.sum(2)
    found: Values = _ratio(_diagonal(counts), true).sum(1) / (true > 0).sum(1)
    return found


def _matthews(counts: Counts) -> Values:
    total = counts.sum((1, 2))
    true, predicted = counts.sum(2), counts.sum(1)
    joint = _diagonal(counts).sum(1) * total - (true * predicted).sum(1)
    spread = (total**2 - (true**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    return _ratio(joint, np.sqrt(spread))


#: metric -> function from counts (B, C, C), [sample, true, predicted], to values (B,)
CONFUSION: dict[str, Callable[[Counts], Values]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
