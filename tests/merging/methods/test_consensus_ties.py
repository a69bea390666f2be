"""Consensus over TIES: cards 6 and 12 together."""

import numpy as np
import pytest

from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, close, merged

TAUS = np.array([TAU1, TAU2])
TRIMMED = {  # K = 50, card 6
    "paper": [[0.5, -0.375, 0, 0.25, 0, 0], [0.25, 0.4375, 0, 0.25, 0.375, 0]],
    "released": [[0.5, -0.375, 0, 0.25, -0.125, 0], [0.25, 0.4375, 0, 0.25, 0.375, 0]],
}


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("least", [0, 1, 2])
@pytest.mark.parametrize("threshold", [0.2, 0.4, 1.0])
def test_the_rule_restated(variant, least, threshold):
    kept = np.array(TRIMMED[variant])
    sign = np.sign(kept.sum(0))
    merged_ = np.where(kept * sign > 0, kept, 0).sum(0)
    counts = (abs(TAUS) > threshold * abs(merged_ - TAUS)).sum(0)
    options = {"density": 0.5, "variant": variant, "least": least, "threshold": threshold}
    wanted = BASE + 0.3 * (counts >= least) * merged_
    assert merged("consensus_ties", **options) == close(wanted)


def test_card_6_dis_sum_at_k_50():
    found = merged("consensus_ties", density=0.5, variant="released", least=0)
    assert found == close([0.725, -0.11875, 0.125, 0.15, 0.3625, -0.5])


def test_nothing_trimmed():
    sign = np.sign(TAUS.sum(0))
    summed = np.where(TAUS * sign > 0, TAUS, 0).sum(0)
    assert merged("consensus_ties", density=1.0, least=0, scale=1.0) == close(BASE + summed)


def test_one_expert_is_refused():
    with pytest.raises(PlanError, match="at least 2 experts"):
        merged("consensus_ties", experts=(THETA1,))


def test_task_vectors_of_zero_give_the_base():
    assert merged("consensus_ties", experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("options", [{"density": 1.5}, {"least": -1}, {"variant": "mergekit"}])
def test_options_that_cannot_be(options):
    with pytest.raises(PlanError, match=f"^consensus_ties: option '{next(iter(options))}"):
        merged("consensus_ties", **options)
