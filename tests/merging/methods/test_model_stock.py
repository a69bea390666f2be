"""Model Stock: card 10."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, THETA1, THETA2, close, delta, merged

TAU3 = [0.25, -0.25, 0.125, 0.125, 0.25, -0.125]
THETA3 = [b + t for b, t in zip(BASE, TAU3, strict=True)]


def test_card_10_two_experts():
    """t = -0.156571: an obtuse angle leads away from the experts."""
    found = merged("model_stock")
    assert found == close([0.441286, -0.254893, 0.134786, -0.039143, 0.230429, -0.495107])


@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_card_10_three_experts(variant):
    found = merged("model_stock", experts=(THETA1, THETA2, THETA3), variant=variant)
    assert found == close([0.672689, -0.282379, 0.125, 0.10793, 0.336344, -0.532379])


def test_clamped_ratio_stays_at_the_base():
    assert merged("model_stock", clamp=True) == close(BASE)


def stock(taus, floor=0.0):
    """Equation 7 for one vector per expert."""
    count, cosines = len(taus), []
    for i in range(count):
        for j in range(i + 1, count):
            lengths = np.linalg.norm(taus[i]) * np.linalg.norm(taus[j])
            cosines.append(taus[i] @ taus[j] / max(lengths, floor))
    c = np.mean(cosines)
    return count * c / (1 + (count - 1) * c) * np.mean(taus, axis=0)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_the_rule_restated(count, scope):
    rng = np.random.default_rng(count)
    taus = rng.normal(size=(count, 4, 5)) + 1
    base = {"w": torch.zeros(4, 5, dtype=torch.float64)}
    found = merge(base, [{"w": torch.from_numpy(t)} for t in taus], "model_stock", scope=scope)["w"]
    if scope == "tensor":
        wanted = stock(taus.reshape(count, -1)).reshape(4, 5)
    else:
        wanted = np.stack([stock(taus[:, row]) for row in range(4)])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_small_changes_are_shrunk_in_mergekit_only():
    taus = [np.array([1e-4, 2e-4, 0.0]), np.array([2e-4, 1e-4, 1e-4])]
    for variant, floor in (("paper", 0.0), ("mergekit", 1e-6)):
        found = delta("model_stock", [t.tolist() for t in taus], variant=variant)
        np.testing.assert_allclose(found, stock(taus, floor), rtol=1e-5)


def test_an_expert_that_is_the_base_gives_the_base():
    assert merged("model_stock", experts=(THETA1, BASE)) == close(BASE)


def test_opposite_experts_give_the_base():
    assert delta("model_stock", [TAU1, [-t for t in TAU1]]) == close([0.0] * 6)


def test_one_expert_is_refused():
    with pytest.raises(PlanError, match="at least 2 experts"):
        merged("model_stock", experts=(THETA1,))
