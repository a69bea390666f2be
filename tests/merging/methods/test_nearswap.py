"""NearSwap, restated as the interpolation it is."""

import numpy as np
import pytest

from taskloom.errors import PlanError

from ..fixture import BASE, THETA1, THETA2, close, merged


@pytest.mark.parametrize("t", [0.0, 0.1, 0.25, 1.0])
def test_the_rule_restated(t):
    base, expert = np.array(BASE), np.array(THETA1)
    weight = np.clip(t / np.maximum(np.abs(base - expert), 1e-6), 0, 1)
    found = merged("nearswap", experts=(THETA1,), t=t)
    assert found == close(weight * expert + (1 - weight) * base)


def test_one_expert_only_and_t_not_negative():
    with pytest.raises(PlanError, match="exactly 1 expert,"):
        merged("nearswap", experts=(THETA1, THETA2))
    with pytest.raises(PlanError, match="'t' is -1"):
        merged("nearswap", experts=(THETA1,), t=-1)
