"""Budgets: what is too small, and when one is spent."""

import math

import pytest

from taskloom.errors import PlanError
from taskloom.learn.search.budget import Budget


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no budget"),
        ({"evaluations": 0}, "0 evaluations is too small for one"),
        ({"evaluations": -3}, "too small"),
        ({"minutes": 0.0}, "0.0 minutes is too small"),
        ({"minutes": -1.0, "evaluations": 5}, "too small"),
        ({"minutes": math.nan}, "nan minutes"),
        ({"minutes": math.inf}, "inf minutes"),
    ],
)
def test_too_small_or_none(given, said):
    with pytest.raises(PlanError, match=said):
        Budget(**given)


def test_evaluations_are_counted():
    budget = Budget(evaluations=3)
    assert [budget.spent(done, 1e9, 1e9) for done in range(5)] == [False, False, False, True, True]


def test_minutes_are_not_run_over():
    budget = Budget(minutes=1)
    assert not budget.spent(0, 0.0, 0.0)
    assert not budget.spent(5, 40.0, 20.0)
    assert budget.spent(5, 40.0, 20.1)


def test_what_is_spent_first_ends_it():
    budget = Budget(evaluations=2, minutes=1)
    assert budget.spent(2, 0.0, 0.0)
    assert budget.spent(1, 59.0, 2.0)
    assert not budget.spent(1, 10.0, 10.0)


def test_the_first_evaluation_may_show_that_it_is_too_small():
    Budget(minutes=1).check_first(60.0)
    Budget(evaluations=1).check_first(1e9)
    with pytest.raises(PlanError, match=r"0.5 minutes is too small for one evaluation, which took 0.6"):
        Budget(minutes=0.5).check_first(36.0)
