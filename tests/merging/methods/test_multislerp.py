"""Multi-SLERP: card 4."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import NumericalError, PlanError

from ..fixture import TAU1, close, delta, merged


def test_card_4():
    found = merged("multislerp", weights=[1, 3])
    assert found == close([0.905707, 0.048376, -0.035216, 0.323384, 0.570432, -0.560266])


def test_card_4_without_a_base():
    a, b = [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]
    found = merged("multislerp", base=None, experts=(a, b), space="weight")
    assert found == close([1.06066, 1.06066, 0.0, 0.0])


def released(vectors, weights, normalize=True):
    """Tangent space and exponential map, as the code that was released goes about it."""
    w = np.asarray(weights, dtype=float)
    w = w / w.sum() if normalize else w
    lengths = np.linalg.norm(vectors, axis=1)
    directions = vectors / lengths[:, None]
    middle = w @ directions
    middle /= np.linalg.norm(middle)
    tangent = w @ (directions - (directions @ middle)[:, None] * middle)
    size = np.linalg.norm(tangent) + 1e-12
    moved = middle * np.cos(size) + tangent * np.sin(size) / size
    return moved * (w @ lengths)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_released_rule_restated(normalize):
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(3, 12)) + 0.5, [1.0, 0.5, 2.0]
    pool = [{"w": torch.from_numpy(v)} for v in vectors]
    options = {"weights": weights, "normalize": normalize, "space": "weight"}
    found = merge(None, pool, "multislerp", **options)["w"]
    np.testing.assert_allclose(found.numpy(), released(vectors, weights, normalize), atol=1e-10)


def test_two_that_cancel_are_averaged_and_three_are_refused():
    opposite = [-t for t in TAU1]
    assert delta("multislerp", [TAU1, opposite]) == close([0.0] * 6)
    with pytest.raises(NumericalError, match="'w': the directions of the 3 experts cancel"):
        delta("multislerp", [TAU1, opposite, TAU1], weights=[1, 2, 1])


def test_what_no_expert_changed_stays():
    assert delta("multislerp", [[0.0, 0.0]] * 3) == close([0.0, 0.0])


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(PlanError, match="sum to 0"):
        merged("multislerp", weights=[1, -1])
