"""Magnitude pruning: the largest changes of each task vector survive."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, close, merged


def kept(tau, count):
    order = sorted(range(len(tau)), key=lambda i: (-abs(tau[i]), i))[:count]
    return np.array([value if i in order else 0.0 for i, value in enumerate(tau)])


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_fixture(density):
    count = int(6 * density)
    wanted = np.array(BASE) + 0.5 * (kept(TAU1, count) + kept(TAU2, count))
    assert merged("magnitude_pruning", density=density, scale=0.5) == close(wanted)


def test_one_expert_is_pruned():
    wanted = np.array(BASE) + kept(TAU1, 3)
    assert merged("magnitude_pruning", experts=(THETA1,), density=0.5) == close(wanted)


def test_tensors_are_pruned_apart_and_models_together():
    base = {"small": torch.zeros(4), "large": torch.zeros(4)}
    expert = {
        "small": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "large": torch.tensor([10.0, 20.0, 30.0, 40.0]),
    }
    apart = merge(base, [expert], "magnitude_pruning", density=0.5)
    assert apart["small"].tolist() == pytest.approx([0, 0, 0.3, 0.4])
    together = merge(base, [expert], "magnitude_pruning", density=0.5, scope="model")
    assert together["small"].tolist() == [0, 0, 0, 0]
    assert together["large"].tolist() == [10, 20, 30, 40]


def test_weights():
    wanted = np.array(BASE) + 3 * kept(TAU1, 3) - kept(TAU2, 3)
    assert merged("magnitude_pruning", density=0.5, weights=[3, -1]) == close(wanted)


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("magnitude_pruning", base=None)
