"""Masks, consensus, election of the largest: shared vectors and what tasks keep of them."""

import numpy as np
import pytest
import torch

from taskloom.algebra import chain, total
from taskloom.algebra.beside import beside
from taskloom.algebra.parts import consensus, elect_largest, elected, take, tall_masks
from taskloom.errors import PlanError

from .stacks import cut_up, make, measured

TAU1 = [0.5, -0.375, 0.0625, 0.25, -0.125, 0.0]
TAU2 = [0.25, 0.4375, -0.1875, 0.25, 0.375, -0.0625]


def masks(threshold, rows=(TAU1, TAU2), experts=None):
    stack = make([list(row) for row in rows], experts=experts)
    for step in chain(beside(total()), tall_masks(threshold)).steps:
        stack = step.apply(stack, None)
    return stack


def test_card_12():
    assert masks(0.4).values[1:].tolist() == [[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert masks(1.0).values[1:].tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1]]
    assert masks(1.0).values[0].tolist() == [0.75, 0.0625, -0.125, 0.5, 0.25, -0.0625]


def test_thresholds_by_name():
    found = masks({"b": 1.0, "a": 0.4}).values[1:]
    assert found.tolist() == [masks(0.4).values[1].tolist(), masks(1.0).values[2].tolist()]
    with pytest.raises(PlanError, match="weights lack the experts b"):
        masks({"a": 0.4})


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), {"a": 0.4, "b": -1.0}])
def test_thresholds_that_cannot_be(threshold):
    with pytest.raises(ValueError, match="threshold must be finite and not negative"):
        tall_masks(threshold)


@pytest.mark.parametrize("least", [0, 1, 2, 3])
def test_consensus_counts(least):
    stack = masks(0.4)
    counts = np.array([2, 2, 1, 2, 1, 1])
    wanted = stack.values[0].numpy() * (counts >= least)
    assert consensus(least).apply(stack, None).values[0].tolist() == wanted.tolist()


def test_consensus_of_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="must not be negative, not -1"):
        consensus(-1)


def test_take():
    stack = masks(1.0, experts=("mood", "topic"))
    assert take("mood").apply(stack, None).values.tolist() == [[0.75, 0, 0, 0, 0, 0]]
    assert take().apply(stack, None).values.tolist() == stack.values[:1].tolist()
    with pytest.raises(PlanError, match=r"'topics': did you mean 'topic'\? The pool holds: mood, topic"):
        take("topics").apply(stack, None)


@pytest.mark.parametrize("step", [take(), consensus(1)])
def test_steps_that_need_masks_say_so(step):
    with pytest.raises(PlanError, match="a mask for each of 2 experts, but found 2 rows"):
        step.apply(make([[1.0], [2.0]]), None)


def test_tall_masks_needs_a_merged_row():
    with pytest.raises(PlanError, match="Put beside"):
        tall_masks().apply(make([[1.0], [2.0]]), None)


def test_card_23():
    shared, marks = elected(torch.tensor([TAU1, TAU2]))
    assert shared.tolist() == [[0.5, 0.4375, -0.1875, 0.25, 0.375, -0.0625]]
    assert marks.int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    stack = make([TAU1, TAU2])
    assert measured(elect_largest(), [stack]) == pytest.approx([1.75, 0.862069], abs=1e-6)


def parts_of(rows, cuts):
    return [make(torch.tensor(rows)[:, a:b], name=f"t{a}") for a, b in cuts]


def test_card_23_by_means_of_tensors():
    stacks = parts_of([TAU1, TAU2], [(0, 2), (2, 6)])
    assert measured(elect_largest("released"), stacks) == pytest.approx([1.75, 0.818182], abs=1e-6)
    assert measured(elect_largest("paper"), stacks) == pytest.approx([1.75, 0.862069], abs=1e-6)


@pytest.mark.parametrize("sizes", ["paper", "released"])
def test_slices_and_threads_do_not_matter(sizes):
    step = elect_largest(sizes)
    values = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
    stack = make(values)
    whole = measured(step, [stack])
    pieces = cut_up(stack, 1)
    assert measured(step, reversed(pieces)).tolist() == whole.tolist()
    see, join = step.measure.see, step.measure.join
    one = see(see(None, pieces[0]), pieces[3])
    other = see(see(None, pieces[5]), pieces[1])
    last = see(see(None, pieces[4]), pieces[2])
    assert step.measure.done(join(join(one, None), join(other, last))).tolist() == whole.tolist()


def test_nothing_that_agrees_is_not_divided():
    step = elect_largest()
    stack = make([[1.0, -1.0], [-3.0, 3.0], [0.0, 0.0]])
    factors = measured(step, [stack])
    assert factors.tolist() == [0.0, 1.0, 0.0]
    assert step.apply(stack, factors).values.tolist() == [[-3, 3], [0, 0], [1, 1], [0, 0]]


def test_empty_tensors_count_for_nothing():
    for sizes in ("paper", "released"):
        stacks = [make(torch.zeros(2, 0), name="empty"), make([[1.0], [3.0]])]
        assert measured(elect_largest(sizes), stacks) == pytest.approx([1 / 3, 1.0])


def test_factors_are_left_at_one():
    found = elect_largest(None).apply(make([TAU1, TAU2]), None).values
    assert found[1:].tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
