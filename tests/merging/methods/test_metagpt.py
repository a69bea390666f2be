"""MetaGPT: card 15."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import NumericalError, PlanError

from ..fixture import BASE, TAU1, TAU2, close, delta, merged

CARD = [0.871976, -0.208921, 0.059476, 0.25, 0.381048, -0.532006]


def test_card_15():
    assert merged("metagpt") == close(CARD)


def test_card_15_an_expert_ten_times_as_long_dominates():
    found = delta("metagpt", [[10 * t for t in TAU1], TAU2])
    assert found == close(0.989613 * 10 * np.array(TAU1) + 0.010387 * np.array(TAU2))


def test_the_weights_minimise_the_surrogate():
    """sum_t |tau_t|^2 |sum_k l_k tau_k - tau_t|^2, solved with cross terms."""
    taus = np.random.default_rng(0).normal(size=(3, 40)) * np.array([[1.0], [2.0], [0.5]])
    norms = (taus**2).sum(1)
    weights = np.linalg.lstsq(norms.sum() * taus @ taus.T, taus @ (taus.T @ norms), rcond=None)[0]
    base = {"w": torch.zeros(40, dtype=torch.float64)}
    found = merge(base, [{"w": torch.from_numpy(t)} for t in taus], "metagpt")["w"]
    np.testing.assert_allclose(found.numpy(), weights @ taus, atol=1e-12)


def test_norms_are_those_of_the_model():
    base = {"a": torch.zeros(1), "b": torch.zeros(1)}
    experts = [
        {"a": torch.tensor([1.0]), "b": torch.tensor([0.0])},
        {"a": torch.tensor([1.0]), "b": torch.tensor([3.0])},
    ]
    found = merge(base, experts, "metagpt")  # squared norms 1 and 10
    assert found["b"].item() == pytest.approx(3 * 10 / 11)
    assert found["a"].item() == pytest.approx(1.0)
    assert merge(base, experts, "metagpt", scope="tensor")["b"].item() == pytest.approx(3.0)


def test_scale():
    assert merged("metagpt", scale=0.5) == close((np.array(CARD) + BASE) / 2)


def test_task_vectors_of_zero_give_the_base():
    assert merged("metagpt", experts=(BASE, BASE)) == close(BASE)


def test_a_nan_is_refused():
    with pytest.raises(NumericalError, match="1 NaN or infinite"):
        merged("metagpt", experts=(BASE, [float("nan"), *BASE[1:]]))


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("metagpt", base=None)
