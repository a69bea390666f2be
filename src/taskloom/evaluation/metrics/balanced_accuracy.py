"""Balanced accuracy."""

from __future__ import annotations

from taskloom.evaluation.confusion import Labels, measured
from taskloom.registry import register


@register("metric")
def balanced_accuracy(labels: Labels, predictions: Labels) -> float:
    """Mean over the classes that occur among the labels of their recall, in [0, 1].

    >>> import numpy as np
    >>> round(balanced_accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])), 4)
    0.8333
    """
    return measured("balanced_accuracy_score", labels, predictions)
