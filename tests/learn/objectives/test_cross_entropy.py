"""Cross-entropy against numpy."""

import numpy as np
import pytest

from taskloom.errors import PlanError
from taskloom.learn.objectives.cross_entropy import cross_entropy
from taskloom.registry import get

from .plain import LABELS, check, softmax


def test_value_and_gradient_are_those_of_the_rule():
    check(
        cross_entropy,
        lambda z: float(-np.log(softmax(z)[np.arange(4), LABELS]).mean()),
        LABELS,
    )


def test_smoothing_spreads_a_share_of_the_target():
    targets = np.full((4, 3), 0.3 / 3)
    targets[np.arange(4), LABELS] += 0.7
    check(
        cross_entropy,
        lambda z: float(-(targets * np.log(softmax(z))).sum(-1).mean()),
        LABELS,
        smoothing=0.3,
    )


def test_a_share_of_one_is_refused():
    with pytest.raises(PlanError, match="smoothing"):
        get("objective", "cross_entropy").validate({"smoothing": 1.0})
