"""Groups of tensors, random parts of a tensor, and the step that weighs by them."""

import numpy as np
import pytest
import torch

from taskloom.algebra.core import Stack
from taskloom.algebra.grouped import group_of, part_of, weigh_groups
from taskloom.errors import PlanError


def test_groups_by_name():
    names = [
        "encoder.layer.3.output.dense.weight",
        "encoder.layer.12.bias",
        "embeddings.word.weight",
        "w",
    ]
    assert [group_of(n, "task") for n in names] == ["*"] * 4
    assert [group_of(n, "layer") for n in names] == [
        "encoder.layer.3",
        "encoder.layer.12",
        "embeddings",
        "w",
    ]
    assert [group_of(n, per) for per in ("tensor", "block") for n in names] == names * 2


def test_parts_are_even_and_the_same_for_any_slice():
    whole = part_of("w", 0, 30_000, 3, seed=5)
    counts = whole.bincount()
    assert len(counts) == 3
    assert int((counts - 10_000).abs().max()) < 400
    assert torch.equal(part_of("w", 1234, 777, 3, seed=5), whole[1234 : 1234 + 777])
    assert not torch.equal(part_of("w", 0, 100, 3, seed=6), whole[:100])
    assert not torch.equal(part_of("v", 0, 100, 3, seed=5), whole[:100])
    assert part_of("w", 9, 4, 1, seed=5).tolist() == [0] * 4


def test_the_step_restated_in_numpy():
    rows = np.random.default_rng(0).normal(size=(2, 3, 4))
    values = {"a": {"m.1": 0.5, "x": 9.0}, "b": 2.0}
    stack = Stack("m.1.w", torch.from_numpy(rows), ("a", "b"), 0, 12)
    found = weigh_groups(values, "layer").apply(stack, None).values.numpy()
    np.testing.assert_array_equal(found, rows * np.array([0.5, 2.0])[:, None, None])


def test_parts_have_numbers_of_their_own_in_any_slice():
    rows = np.random.default_rng(1).normal(size=(2, 50))
    values = {"a": {"w": [0.1, -1.0, 3.0]}, "b": {"w": [2.0, 0.0, 1.0]}}
    step = weigh_groups(values, "block", parts=3, seed=4)
    place = part_of("w", 0, 50, 3, seed=4).numpy()
    table = np.array([values["a"]["w"], values["b"]["w"]])
    whole = step.apply(Stack("w", torch.from_numpy(rows), ("a", "b"), 0, 50), None).values.numpy()
    np.testing.assert_array_equal(whole, rows * table[:, place])
    part = Stack("w", torch.from_numpy(rows[:, 20:31]), ("a", "b"), 20, 50)
    np.testing.assert_array_equal(step.apply(part, None).values.numpy(), whole[:, 20:31])


def test_a_group_without_a_number_and_the_wrong_number_of_parts_are_refused():
    stack = Stack("layer.1.w", torch.ones(1, 2), ("a",), 0, 2)
    with pytest.raises(PlanError, match=r"no coefficient for 'layer.1'; the nearest is 'layer.0'"):
        weigh_groups({"a": {"layer.0": 1.0}}, "layer").apply(stack, None)
    with pytest.raises(PlanError, match=r"'a' has 2 coefficients for 'layer.1.w', expected 3"):
        weigh_groups({"a": {"layer.1.w": [1.0, 2.0]}}, "block", parts=3).apply(stack, None)
