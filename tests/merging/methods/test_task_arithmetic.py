"""Task arithmetic: card 5; also the proof of the system's three verbs."""

import torch

from taskloom import merge

from ..fixture import BASE, close, merged, weights


def test_card_5_add():
    assert merged("task_arithmetic", scale=0.3) == close(
        [0.725, -0.23125, 0.0875, 0.15, 0.325, -0.51875]
    )
    assert merged("task_arithmetic", scale=0.5) == close(
        [0.875, -0.21875, 0.0625, 0.25, 0.375, -0.53125]
    )


def test_the_default_scale_is_the_cards():
    assert (merged("task_arithmetic") == merged("task_arithmetic", scale=0.3)).all()


def test_scale_zero_is_the_base():
    assert merged("task_arithmetic", scale=0).tolist() == BASE


def test_weights_are_not_normalised():
    expected = [b + 2 * t for b, t in zip(BASE, [0.5, -0.375, 0.0625, 0.25, -0.125, 0.0], strict=True)]
    assert merged("task_arithmetic", scale=1, weights=[2, 0]) == close(expected)


def test_bfloat16_task_vectors_are_subtracted_in_float32():
    base = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}
    expert = {"w": torch.tensor([1.015625], dtype=torch.bfloat16)}
    found = merge(base, [expert] * 3, "task_arithmetic", scale=0.5, dtype=torch.float32)
    assert found["w"].item() == 1.0078125 + 1.5 * 0.0078125


def test_three_verbs_undo_each_other():
    added = weights(merged("task_arithmetic", scale=1.0).tolist())
    experts = [weights([b, *BASE[1:]]) for b in (0.75, 0.75)]
    forgotten = merge(weights(BASE), experts, "task_negation", scale=0.5)
    assert forgotten["w"][0] == 0.25
    assert torch.equal(merge(weights(BASE), [added], "task_arithmetic", scale=1.0)["w"], added["w"])
