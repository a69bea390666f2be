"""prune_layers: which tensors are a layer, and which layers go."""

import numpy as np
import pytest
import torch

from taskloom.algebra.layers import block_of, prune_layers

from .stacks import make, measured, run


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("encoder.layer.11.attention.self.query.weight", "encoder.layer.11"),
        ("model.layers.0.mlp.experts.3.w1.weight", "model.layers.0"),
        ("h.2.attn.bias", "h.2"),
        ("0.weight", "0"),
        ("layer.4", "layer.4"),
        ("conv1.weight", ""),
        ("embeddings.word_embeddings.weight", ""),
        ("head", ""),
    ],
)
def test_block_of(name, block):
    assert block_of(name) == block


def model():
    """Two experts; means of the blocks: expert 0 has 3, 1, 2, expert 1 has 1, 2, 2."""
    return {
        "emb": torch.tensor([[0.01, 0.01], [9.0, 9.0]]),
        "h.10.w": torch.tensor([[2.0, -2.0], [-2.0, 2.0]]),
        "h.2.w": torch.tensor([[1.0, -1.0, 1.0], [2.0, 2.0, 2.0]]),
        "h.1.w": torch.tensor([[3.0, 3.0], [1.0, 1.0]]),
        "h.1.b": torch.tensor([[-3.0], [-1.0]]),
    }


def zeroed(found):
    return {k: sorted(n for n, rows in found.items() if not rows[k].any()) for k in (0, 1)}


def test_each_expert_loses_its_smallest_layers():
    assert zeroed(run(prune_layers(1 / 3), model())) == {0: ["h.2.w"], 1: ["h.1.b", "h.1.w"]}
    # of the equal means of expert 1 the first in natural order goes: h.2 before h.10
    assert zeroed(run(prune_layers(2 / 3), model())) == {
        0: ["h.10.w", "h.2.w"],
        1: ["h.1.b", "h.1.w", "h.2.w"],
    }


def test_or_its_largest():
    assert zeroed(run(prune_layers(1 / 3, "high"), model())) == {0: ["h.1.b", "h.1.w"], 1: ["h.2.w"]}


def test_tensors_as_layers():
    found = zeroed(run(prune_layers(0.2, layers="tensor"), model()))
    assert found == {0: ["emb"], 1: ["h.1.b"]}


def test_without_numbered_blocks_every_tensor_is_a_layer():
    rows = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[2.0]])}
    assert [n for n, r in run(prune_layers(0.5), rows).items() if not r.any()] == ["a"]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_less_than_one_layer_is_nothing(share):
    found = run(prune_layers(share), model())
    assert all(np.array_equal(found[name], rows.numpy()) for name, rows in model().items())


def test_everything_goes_but_what_is_in_no_block():
    assert zeroed(run(prune_layers(1.0), model()))[1] == ["h.1.b", "h.1.w", "h.10.w", "h.2.w"]


def test_order_slices_and_threads_do_not_matter():
    step = prune_layers(1 / 3)
    stacks = [make(rows, name=name) for name, rows in model().items()]
    whole = measured(step, stacks)
    see, join = step.measure.see, step.measure.join
    halves = [None, None]
    for number, stack in enumerate(reversed(stacks)):
        for part in (stack.values[:, :1], stack.values[:, 1:]):
            halves[number % 2] = see(halves[number % 2], stack.with_values(part))
    joined = step.measure.done(join(*halves))
    assert {n: m.tolist() for n, m in joined.items()} == {n: m.tolist() for n, m in whole.items()}
    assert step.measure.done(join(None, None)) == {}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_cannot_be(share):
    with pytest.raises(ValueError, match=r"share is a share of the layers and must lie in \[0, 1\]"):
        prune_layers(share)
