"""PCB-Merging: card 13. The rule is restated in full in tests/algebra/test_compete.py."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import NumericalError, PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close, merged

CARD = np.array([0.347061, 0.0, 0.0, 0.25, 0.375, 0.0])


def test_card_13():
    assert merged("pcb", ratio=0.5) == close([0.916473, -0.25, 0.125, 0.3, 0.7, -0.5])
    assert merged("pcb", ratio=0.5, scale=1.0) == close(BASE + CARD)


def test_weights_enter_the_numerator_only():
    assert merged("pcb", ratio=0.5, weights=[2, 2]) == close(BASE + 2.4 * CARD)


def test_ranks_are_those_of_the_model():
    def halves(values):
        tensor = torch.tensor(values)
        return {"a": tensor[:2], "b": tensor[2:].reshape(2, 2)}

    found = merge(halves(BASE), [halves(THETA1), halves(THETA2)], "pcb", ratio=0.5)
    whole = torch.cat([found["a"], found["b"].reshape(-1)]).numpy()
    assert whole.tolist() == merged("pcb", ratio=0.5).tolist()


def test_of_many_entries_the_ratio_survives():
    taus = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    found = merge({"w": torch.zeros(1000)}, [{"w": t} for t in taus], "pcb", ratio=0.05)["w"]
    # 49 of each expert, some of them the same
    assert 49 <= int((found != 0).sum()) <= 98


def test_vision_variant_of_the_fixture():
    taus = np.array([TAU1, TAU2])
    low, high = np.array([[0.0], [0.0625]]), np.array([[0.375], [0.375]])
    unit = (np.clip(abs(taus), low, high) - low) / (high - low)
    scores = np.exp(2 * unit**2) * np.tanh(taus * (np.sign(taus) * unit).sum(0))
    floor = np.sort(scores, axis=1)[:, [3]]
    scaled = np.clip(scores - floor, 0, None) / (scores.max(1, keepdims=True) - floor)
    clamped = np.sign(taus) * np.clip(abs(taus), low, high)
    wanted = (scaled * clamped).sum(0) / np.maximum(scaled.sum(0), 1e-12)
    assert merged("pcb", ratio=0.5, variant="vision") == close(BASE + 1.2 * wanted)


def test_task_vectors_of_zero_give_the_base():
    assert merged("pcb", experts=(BASE, BASE)) == close(BASE)


def test_a_nan_is_refused():
    with pytest.raises(NumericalError, match="1 NaN or infinite"):
        merged("pcb", experts=(THETA1, [float("nan"), *THETA2[1:]]))


@pytest.mark.parametrize(
    "options", [{"ratio": 0}, {"ratio": 1.1}, {"clamp": 0.5}, {"clamp": -1}, {"variant": "paper"}]
)
def test_options_that_cannot_be(options):
    with pytest.raises(PlanError, match=f"^pcb: option '{next(iter(options))}'"):
        merged("pcb", **options)


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("pcb", base=None)
