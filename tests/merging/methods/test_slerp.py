"""SLERP: card 4."""

import numpy as np
import pytest

from taskloom.errors import PlanError

from ..fixture import THETA1, THETA2, close, merged

A, B = [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]


def test_card_4_orthogonal():
    assert merged("slerp", base=None, experts=[A, B], t=0.25) == close([0.92388, 0.765367, 0, 0])


def test_card_4_fixture():
    found = merged("slerp", t=0.5)
    assert found == close([0.956823, -0.239206, 0.068344, 0.273378, 0.410067, -0.580928])


def test_card_4_norms():
    norms = [np.linalg.norm(x) for x in (THETA1, THETA2, merged("slerp"))]
    assert norms == pytest.approx([1.324351, 1.170937, 1.248106], abs=1e-5)


@pytest.mark.parametrize(("t", "end"), [(0.0, THETA1), (1.0, THETA2)])
def test_ends(t, end):
    assert merged("slerp", t=t) == close(end)


def test_the_other_way_round():
    assert merged("slerp", t=0.3) == close(merged("slerp", t=0.7, experts=[THETA2, THETA1]))


def test_above_the_threshold_it_is_linear():
    near = [x * 1.5 + 0.001 for x in THETA1]
    found = merged("slerp", experts=[THETA1, near], t=0.25)
    linear = [0.75 * a + 0.25 * b for a, b in zip(THETA1, near, strict=True)]
    assert found == close(linear)


def test_a_zero_vector_is_linear():
    assert merged("slerp", base=None, experts=[[0.0] * 4, B], t=0.25) == close([0, 0.5, 0, 0])


@pytest.mark.parametrize("experts", [[A], [A, B, A]])
def test_takes_exactly_two(experts):
    with pytest.raises(PlanError, match="exactly 2 experts"):
        merged("slerp", base=None, experts=experts)


def test_t_must_be_finite():
    with pytest.raises(PlanError, match=r"slerp: option .t. is nan, but .* a finite number"):
        merged("slerp", t=float("nan"))
