"""Consensus over task arithmetic: card 12."""

import numpy as np
import pytest

from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, close, merged

TAUS = np.array([TAU1, TAU2])


def test_card_12_used_by_both():
    assert merged("consensus") == close([0.725, -0.23125, 0.125, 0.15, 0.25, -0.5])


def test_card_12_used_by_one():
    found = merged("consensus", threshold=1.0, least=1)
    assert found == close([0.725, -0.23125, 0.0875, 0.0, 0.325, -0.51875])


def test_card_12_used_by_none_is_task_arithmetic():
    found = merged("consensus", least=0)
    assert found == close([0.725, -0.23125, 0.0875, 0.15, 0.325, -0.51875])
    assert found.tolist() == merged("task_arithmetic", scale=0.3).tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("least", [0, 1, 2])
def test_the_rule_restated(threshold, least):
    total = TAUS.sum(0)
    counts = (abs(TAUS) > threshold * abs(total - TAUS)).sum(0)
    wanted = BASE + 0.7 * (counts >= least) * total
    assert merged("consensus", threshold=threshold, least=least, scale=0.7) == close(wanted)


def test_a_threshold_for_each_task():
    total = TAUS.sum(0)
    counts = (abs(TAUS) > np.array([[0.4], [1.0]]) * abs(total - TAUS)).sum(0)
    found = merged("consensus", threshold={"expert-1": 0.4, "expert-2": 1.0})
    assert found == close(BASE + 0.3 * (counts >= 2) * total)


@pytest.mark.parametrize(("least", "experts"), [(2, 1), (3, 2)])
def test_fewer_experts_than_a_consensus_needs_are_refused(least, experts):
    with pytest.raises(PlanError, match=f"at least {least} experts"):
        merged("consensus", experts=(THETA1,) * experts, least=least)


def test_task_vectors_of_zero_give_the_base():
    assert merged("consensus", experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("options", [{"least": -1}, {"least": 1.5}, {"threshold": -0.1}])
def test_options_that_cannot_be(options):
    with pytest.raises(PlanError, match=f"^consensus: option '{next(iter(options))}"):
        merged("consensus", **options)
