"""Average: card 1 (uniform soup) and card 2 (checkpoint averaging)."""

import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, THETA1, THETA2, close, merged


def test_card_1_uniform_soup():
    assert merged("average") == close([0.875, -0.21875, 0.0625, 0.25, 0.375, -0.53125])


def test_card_2_mean_of_the_last_two_checkpoints():
    run = [[b + f * t for b, t in zip(BASE, TAU1, strict=True)] for f in (0.25, 0.5, 0.75, 1.0)]
    expected = [0.9375, -0.578125, 0.179688, 0.21875, 0.140625, -0.5]
    assert merged("average", experts=run[-2:]) == close(expected)


def test_card_5_task_arithmetic_at_one_over_n_is_the_average():
    assert merged("task_arithmetic", scale=0.5) == close(merged("average"))


def test_no_base_is_needed_and_none_takes_part():
    assert (merged("average", base=None) == merged("average", base=[9.0] * 6)).all()


def test_weights_are_normalised():
    expected = [0.75 * a + 0.25 * b for a, b in zip(THETA1, THETA2, strict=True)]
    assert merged("average", weights=[3, 1]) == close(expected)
    assert merged("average", names=["x", "y"], weights={"y": 0.5, "x": 1.5}) == close(expected)


def test_weights_that_sum_to_zero():
    with pytest.raises(PlanError, match="sum to 0"):
        merged("average", weights=[1, -1])


def test_many_small_experts_keep_float32():
    experts = [{"w": torch.tensor([1 + k * 2**-8], dtype=torch.bfloat16)} for k in range(8)]
    exact = sum(float(e["w"]) for e in experts) / 8
    assert merge(None, experts, dtype=torch.float32)["w"].item() == exact
