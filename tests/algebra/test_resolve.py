"""Sign election."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra import elect
from taskloom.errors import PlanError

from . import restated
from .stacks import cut_up, make, measured, run

# multiples of 1/8: sums are exact, so that ties are ties
eighths = st.integers(-4, 4).map(lambda i: i / 8)
ballots = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(eighths, min_size=6, max_size=6), min_size=k, max_size=k)
)


@given(ballots, st.sampled_from(["zero", "plus", "majority"]))
def test_elect(rows, tie):
    values = np.array(rows, dtype=np.float32)
    assert np.array_equal(run(elect(tie), torch.from_numpy(values))["w"], restated.elect(values, tie))


@given(ballots, st.data())
def test_elect_weighted(rows, data):
    values = np.array(rows, dtype=np.float32)
    tie = data.draw(st.sampled_from(["zero", "plus", "majority"]))
    weights = data.draw(st.lists(eighths, min_size=len(rows), max_size=len(rows)))
    found = run(elect(tie, weights), torch.from_numpy(values))["w"]
    assert np.array_equal(found, restated.elect(values, tie, weights))


@pytest.mark.parametrize(
    ("tie", "expected"),
    [("zero", [[0, 2], [0, 0]]), ("plus", [[1, 2], [0, 0]]), ("majority", [[1, 2], [0, 0]])],
)
def test_a_tied_vote(tie, expected):
    assert run(elect(tie), torch.tensor([[1.0, 2.0], [-1.0, -1.0]]))["w"].tolist() == expected


def test_a_tied_majority_is_negative():
    assert run(elect("majority"), torch.tensor([[1.0], [-1.0]]))["w"].tolist() == [[0.0], [-1.0]]


def test_the_majority_is_that_of_the_whole_model():
    few = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    many = torch.full((2, 5), -1.0)
    assert run(elect("majority"), {"few": few, "many": many})["few"].tolist() == [[0, 1], [-1, 1]]


@given(st.permutations(range(4)))
def test_majority_in_any_slices_and_order(order):
    stack = make(torch.randint(-2, 3, (3, 4, 5), generator=torch.Generator().manual_seed(0)).float())
    step = elect("majority")
    pieces = cut_up(stack, 1)
    assert measured(step, [pieces[i] for i in order]) == measured(step, [stack])


@pytest.mark.parametrize("experts", [2, 5, 8, 33])
def test_a_slice_votes_as_the_whole_does(experts):
    """The order of additions must not depend on the slice, or near ties go either way."""
    values = torch.randn(experts, 64, 3, generator=torch.Generator().manual_seed(0))
    values -= values.mean(0)
    stack = make(values, experts=[str(k) for k in range(experts)])
    step = elect()
    together = torch.cat([step.apply(piece, None).values for piece in cut_up(stack, 1)], 1)
    assert torch.equal(together, step.apply(stack, None).values)


def test_values_pass_unweighted():
    found = run(elect("zero", [0.5, 2.0]), torch.tensor([[1.0, -3.0], [-1.0, 1.0]]))["w"]
    assert found.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_gradient_reaches_what_passed():
    values = torch.tensor([[2.0, -1.0], [-1.0, -1.0]], requires_grad=True)
    elect().apply(make(values), None).values.sum().backward()
    assert values.grad.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_wrong_number_of_weights():
    with pytest.raises(PlanError, match="3 weights were given for 2 experts"):
        elect("zero", [1, 2, 3]).apply(make([[1.0], [2.0]]), None)


def test_names():
    assert [elect(tie).name for tie in ("zero", "plus", "majority")] == [
        "elect",
        "elect(tie plus)",
        "elect(tie majority)",
    ]
