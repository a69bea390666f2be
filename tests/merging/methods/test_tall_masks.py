"""TALL-masks: card 12."""

import numpy as np
import pytest

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close, merged, weights

NAMES = ["one", "two"]
TAUS = np.array([TAU1, TAU2])


def of(task, experts=(THETA1, THETA2), **options):
    found = merge(
        weights(BASE), [weights(e) for e in experts], "tall_masks", names=NAMES, task=task, **options
    )
    return found["w"].numpy()


def test_card_12():
    assert of("one") == close([1.25, -0.1875, 0.125, 0.5, 0.25, -0.5])
    assert of("two") == close([1.25, -0.1875, 0.0, 0.5, 0.5, -0.5625])


def test_without_a_task_it_is_the_sum():
    assert of(None) == close(BASE + TAUS.sum(0))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6, 1.0, 5.0])
def test_the_rule_restated(threshold):
    merged_ = TAUS.sum(0)
    for k, name in enumerate(NAMES):
        mask = abs(TAUS[k]) > threshold * abs(merged_ - TAUS[k])
        assert of(name, threshold=threshold) == close(BASE + mask * merged_)


def test_a_threshold_for_each_task():
    both = {"one": 0.4, "two": 1.0}
    assert of("one", threshold=both).tolist() == of("one", threshold=0.4).tolist()
    assert of("two", threshold=both).tolist() == of("two", threshold=1.0).tolist()


@pytest.mark.parametrize(
    ("variant", "trimmed"),
    [
        ("paper", [[0.5, -0.375, 0, 0.25, 0, 0], [0.25, 0.4375, 0, 0.25, 0.375, 0]]),
        ("released", [[0.5, -0.375, 0, 0.25, -0.125, 0], [0.25, 0.4375, 0, 0.25, 0.375, 0]]),
    ],
)
def test_over_ties(variant, trimmed):
    """Card 6 at K=50: what is trimmed, the elected signs, their sum; masks compare whole vectors."""
    kept = np.array(trimmed)
    sign = np.sign(kept.sum(0))
    summed = np.where(kept * sign > 0, kept, 0).sum(0)
    for k, name in enumerate(NAMES):
        mask = abs(TAUS[k]) > 0.4 * abs(summed - TAUS[k])
        assert of(name, over="ties", density=0.5, variant=variant) == close(BASE + mask * summed)


def test_one_expert_is_returned():
    found = merge(weights(BASE), {"one": weights(THETA1)}, "tall_masks", task="one")
    assert found["w"].numpy() == close(THETA1)


def test_task_vectors_of_zero_give_the_base():
    assert of("one", experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("threshold", [-1, float("nan"), {"one": -1.0, "two": 0.4}])
def test_thresholds_that_cannot_be(threshold):
    with pytest.raises(PlanError, match=r"^tall_masks: option 'threshold"):
        of("one", threshold=threshold)


def test_thresholds_of_other_experts_are_refused_before_reading():
    with pytest.raises(PlanError, match=r"weights name the expert 'three'"):
        of("one", threshold={"one": 0.4, "three": 0.4})


def test_a_task_that_is_not_in_the_pool():
    with pytest.raises(PlanError, match="there is no expert 'on': did you mean 'one'"):
        of("on")


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("tall_masks", base=None)


def test_reads():
    from taskloom.merging.recipe import Recipe

    assert Recipe.of("tall_masks").chain.reads == 1
    assert Recipe.of("tall_masks", over="ties").chain.reads == 3
