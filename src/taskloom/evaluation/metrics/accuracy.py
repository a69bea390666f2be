"""Accuracy."""

from __future__ import annotations

from taskloom.evaluation.confusion import Labels, measured
from taskloom.registry import register


@register("metric")
def accuracy(labels: Labels, predictions: Labels) -> float:
    """Share of examples whose predicted class is the true one, in [0, 1].

    >>> import numpy as np
    >>> accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    return measured("accuracy_score", labels, predictions)
