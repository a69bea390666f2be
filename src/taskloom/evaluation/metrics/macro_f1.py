"""Macro-averaged F1."""

from __future__ import annotations

from taskloom.evaluation.confusion import Labels, measured
from taskloom.registry import register


@register("metric")
def macro_f1(labels: Labels, predictions: Labels) -> float:
    """Mean over classes of the harmonic mean of precision and recall, in [0, 1].

    The classes are those that occur among labels or predictions; an undefined precision or recall is 0.

    >>> import numpy as np
    >>> round(macro_f1(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])), 4)
    0.7333
    """
    return measured("f1_score", labels, predictions, average="macro", zero_division=0)
