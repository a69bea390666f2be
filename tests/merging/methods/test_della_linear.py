"""DELLA without election."""

import numpy as np
import pytest
import torch

from taskloom import merge

from ..fixture import BASE, TAU1, TAU2, close, merged


def test_density_one_is_task_arithmetic():
    found = merged("della_linear", density=1.0, scale=0.3)
    assert found == close([0.725, -0.23125, 0.0875, 0.15, 0.325, -0.51875])


def test_density_zero_is_the_base():
    assert merged("della_linear", density=0.0) == close(BASE)


def test_what_stays_is_divided_by_its_probability():
    """Every entry is 0 or the change over one of the probabilities of its rank."""
    found = merged("della_linear", experts=([b + t for b, t in zip(BASE, TAU1, strict=True)],), scale=1)
    chance = np.array([0.77, 0.742, 0.658, 0.714, 0.686, 0.63])
    moved = found - np.array(BASE)
    for value, tau, p in zip(moved, TAU1, chance, strict=True):
        assert value == pytest.approx(0) or value == pytest.approx(tau / p, rel=1e-5)


def test_weights_and_no_rescale():
    base = {"w": torch.zeros(1000)}
    pool = [{"w": torch.full((1000,), v)} for v in (1.0, 8.0)]
    options = {"density": 0.5, "epsilon": 0.1, "scale": 1.0, "rescale": False, "weights": [2, 0.5]}
    found = merge(base, pool, "della_linear", **options)["w"]
    assert sorted(found.unique().tolist()) == [0.0, 2.0, 4.0, 6.0]


def test_conflicts_cancel_as_no_sign_is_elected():
    negative = [-t for t in TAU2]
    found = merged("della_linear", base=[0.0] * 6, experts=(TAU2, negative), density=1.0)
    assert found == close([0.0] * 6)
