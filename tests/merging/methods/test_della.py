"""DELLA: card 8."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.algebra import rank
from taskloom.algebra.rank import keep_probabilities
from taskloom.errors import PlanError

from ..fixture import TAU1, TAU2, close, merged

DRAWN = {"expert-1": [0.4, 0.7, 0.2, 0.5, 0.1, 0.9], "expert-2": [0.3, 0.6, 0.5, 0.6, 0.2, 0.1]}


@pytest.fixture
def card(monkeypatch):
    """The card's uniform numbers instead of drawn ones."""

    def bits(seed, tensor, expert, start, count):
        return torch.tensor([int(u * 2**32) for u in DRAWN[expert]])[start : start + count]

    monkeypatch.setattr(rank, "uniform_bits", bits)


def test_card_8_probabilities():
    found = [keep_probabilities(torch.tensor(t), 0.5, 0.15).tolist() for t in (TAU1, TAU2)]
    assert found[0] == pytest.approx([0.65, 0.59, 0.41, 0.53, 0.47, 0.35])
    assert found[1] == pytest.approx([0.47, 0.65, 0.41, 0.53, 0.59, 0.35])


def test_card_8_rows_are_ranked_apart():
    found = keep_probabilities(torch.tensor(TAU1).reshape(2, 3), 0.5, 0.1)
    assert found.tolist() == [pytest.approx([0.6, 0.5, 0.4])] * 2


@pytest.mark.usefixtures("card")
def test_card_8():
    found = merged("della", density=0.5, epsilon=0.15, scale=1.1)
    assert found == close([1.21563, 0.490385, 0.292683, 0.518868, 0.949153, -0.696429])


@pytest.mark.parametrize("density", [0.3, 0.7])
def test_the_expectation_is_kept_and_large_entries_stay_more_often(density):
    tau = torch.linspace(0.1, 1.0, 10).repeat(20_000, 1)
    base = {"w": torch.zeros_like(tau)}
    options = {"density": density, "epsilon": 0.2, "scale": 1.0}
    found = merge(base, [{"w": tau}], "della", **options)["w"]
    np.testing.assert_allclose(found.mean(0).numpy(), tau[0].numpy(), rtol=0.12)
    kept = (found != 0).float().mean(0)
    wanted = density - 0.2 + 0.4 * torch.arange(10) / 9
    np.testing.assert_allclose(kept.numpy(), wanted.numpy(), atol=0.03)


def test_density_one_drops_nothing():
    found = merged("della", density=1.0, scale=1.0)
    assert found == close([0.875, 0.1875, -0.0625, 0.25, 0.625, -0.5625])


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.2), (0.9, 0.1), (0.5, 0.5)])
def test_probabilities_outside_are_refused(density, epsilon):
    with pytest.raises(PlanError, match="smaller epsilon"):
        merged("della", density=density, epsilon=epsilon)
