"""NuSLERP: card 4."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import close, delta, merged


def test_card_4_on_task_vectors():
    found = merged("nuslerp", weights=[1, 3])
    assert found == close([0.936692, 0.013637, -0.027318, 0.336577, 0.554636, -0.559116])


def test_card_4_slerp_on_models():
    found = merged("nuslerp", base=None, space="weight")
    assert found == close([0.956823, -0.239206, 0.068344, 0.273378, 0.410067, -0.580928])
    a, b = [1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]
    found = merged("nuslerp", base=None, experts=(a, b), space="weight", weights=[3, 1])
    assert found == close([0.92388, 0.765367, 0.0, 0.0])


def arc(a, b, t):
    """Shoemake's formula with the angle between the vectors."""
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1, 1))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_rule_restated(scope, t):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4))
    pool = [{"w": torch.from_numpy(a)}, {"w": torch.from_numpy(b)}]
    found = merge(None, pool, "nuslerp", space="weight", scope=scope, weights=[1 - t, t])["w"]
    if scope == "tensor":
        wanted = arc(a.ravel(), b.ravel(), t).reshape(3, 4)
    elif scope == "row":
        wanted = np.stack([arc(x, y, t) for x, y in zip(a, b, strict=True)])
    else:
        wanted = np.stack([arc(x, y, t) for x, y in zip(a.T, b.T, strict=True)]).T
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_a_vector_of_zero():
    """Linear for us; at a right angle to everything in mergekit."""
    taus = [[0.0, 0.0], [1.0, 2.0]]
    assert delta("nuslerp", taus, weights=[3, 1]) == close([0.25, 0.5])
    bent = np.sin(np.pi / 8)
    assert delta("nuslerp", taus, weights=[3, 1], variant="mergekit") == close([bent, 2 * bent])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_parallel_and_opposite_are_linear(sign):
    taus = [[1.0, 2.0], [2.0 * sign, 4.0 * sign]]
    assert delta("nuslerp", taus) == close([(1 + 2 * sign) / 2, 1 + 2 * sign])


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(PlanError, match="sum to 0"):
        merged("nuslerp", weights=[1, -1])
