"""Analogy: card 5."""

import pytest

from taskloom.errors import PlanError

from ..fixture import BASE, THETA1, THETA2, close, merged

A = [0.75, *BASE[1:]]


def test_card_5_analogy():
    found = merged("task_analogy", experts=[A, THETA1, THETA2])
    assert found == close([1.0, -0.1875, 0.0, 0.5, 0.5, -0.5625])


def test_b_and_c_are_exchangeable_and_a_is_not():
    found = merged("task_analogy", experts=[A, THETA1, THETA2])
    assert (found == merged("task_analogy", experts=[A, THETA2, THETA1])).all()
    assert (found != merged("task_analogy", experts=[THETA1, A, THETA2])).any()


@pytest.mark.parametrize("experts", [[A, THETA1], [A, THETA1, THETA2, THETA2]])
def test_takes_exactly_three(experts):
    with pytest.raises(PlanError, match="exactly 3 experts"):
        merged("task_analogy", experts=experts)
