"""Prompt uncertainty restated, its task map, and what it refuses."""

import numpy as np
import pytest

from taskloom.choose.sets import prompt_uncertainty
from taskloom.errors import DataError

STEADY = np.array([[0.9, 0.9, 0.9], [0.8, 0.8, 0.8]])
SHAKY = np.array([[0.6, 0.1, 0.9], [0.5, 0.4, 0.2]])
LOST = np.array([[0.2, 0.2, 0.2]])


def test_restated_with_loops():
    found = prompt_uncertainty([STEADY, SHAKY, LOST], size=3)
    total, count = 0.0, 0
    for row in SHAKY:
        for other in row[1:]:
            total += abs(other - row[0])
            count += 1
    assert found.chosen[0] == 1
    assert found.values[0] == pytest.approx(total / count)
    assert found.values[1:] == (0.0, 0.0)
    assert found.chosen[1:] == (0, 2)  # of equal ones the first


def test_signed_differences_cancel():
    both = [[0.5, 0.1, 0.9]], [[0.5, 0.6, 0.6]]
    assert prompt_uncertainty(both, size=1).chosen == (0,)
    assert prompt_uncertainty(both, size=1, absolute=False).chosen == (1,)


def test_the_task_map():
    found = prompt_uncertainty([STEADY, SHAKY, LOST, SHAKY[:, ::-1]], size=2)
    kinds = [reason.split(":")[0] for reason in found.reasons]
    assert kinds == ["easy", "ambiguous", "difficult", "ambiguous"]


def test_tasks_may_have_other_numbers_of_examples_and_prompts():
    assert prompt_uncertainty([STEADY[:, :2], SHAKY, LOST], size=1).chosen == (1,)


@pytest.mark.parametrize(
    ("tables", "size", "told"),
    [
        ([STEADY[:, :1]], 1, "one perturbed prompt or more"),
        ([-STEADY], 1, "probabilities"),
        ([STEADY], 2, "found 2 of 1"),
        ([], 1, "found 1 of 0"),
        ([np.zeros((0, 3))], 1, "two axes"),
    ],
)
def test_bad_input_is_refused(tables, size, told):
    with pytest.raises(DataError, match=told):
        prompt_uncertainty(tables, size=size)
