"""DARE with task arithmetic: card 7, with the card's drop pattern in place of random numbers."""

import numpy as np
import pytest
import torch

from taskloom import merge

from ..fixture import BASE, TAU1, TAU2, close, merged

DROPPED = {"expert-1": [1, 0, 0, 1, 0, 1], "expert-2": [0, 0, 1, 1, 1, 0]}


@pytest.fixture
def pattern(monkeypatch):
    def bernoulli(p, seed, tensor, expert, start, count):
        assert p == 0.5
        return torch.tensor(DROPPED[expert], dtype=torch.bool)[start : start + count]

    monkeypatch.setattr("taskloom.algebra.sparsify.bernoulli", bernoulli)


@pytest.mark.usefixtures("pattern")
def test_card_7_with_task_arithmetic():
    found = merged("dare_linear", p=0.5, scale=0.3)
    assert found == close([0.65, -0.2125, 0.1625, 0.0, 0.175, -0.5375])


@pytest.mark.usefixtures("pattern")
def test_card_7_average_of_models():
    found = merged("dare_linear", p=0.5, scale=0.5)
    assert found == close([0.75, -0.1875, 0.1875, 0.0, 0.125, -0.5625])


@pytest.mark.usefixtures("pattern")
def test_card_7_released_script_without_rescale():
    kept = 1 - np.array(list(DROPPED.values()))
    expected = np.array(BASE) + 0.3 * (kept * np.array([TAU1, TAU2])).sum(0)
    assert merged("dare_linear", p=0.5, scale=0.3, rescale=False) == close(expected)


def test_dropping_nothing_is_task_arithmetic():
    assert (merged("dare_linear", p=0.0) == merged("task_arithmetic")).all()


def test_dropping_everything_is_the_base():
    assert merged("dare_linear", p=1.0).tolist() == BASE


def test_the_expectation_is_task_arithmetic():
    base, expert = {"w": torch.zeros(100_000)}, {"w": torch.ones(100_000)}
    found = merge(base, [expert], "dare_linear", p=0.9, scale=1.0)["w"]
    assert abs(found.mean() - 1) < 4.5 * (9 / 100_000) ** 0.5


def test_experts_have_masks_of_their_own():
    found = {
        k: merge({"w": torch.zeros(4000)}, [{"w": torch.ones(4000)}], "dare_linear", p=0.5, names=[k])
        for k in "ab"
    }
    assert 0.45 < (found["a"]["w"] == found["b"]["w"]).float().mean() < 0.55
