"""Matthews correlation."""

from __future__ import annotations

from taskloom.evaluation.confusion import Labels, measured
from taskloom.registry import register


@register("metric", paper="Matthews 1975; Gorodkin 2004 for several classes")
def matthews(labels: Labels, predictions: Labels) -> float:
    """Correlation between true and predicted classes, in [-1, 1]; 0 if either is constant.

    >>> import numpy as np
    >>> round(matthews(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])), 4)
    0.5774
    """
    return measured("matthews_corrcoef", labels, predictions)
