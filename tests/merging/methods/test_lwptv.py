"""LwPTV: card 16 (its saliency is assumed)."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, THETA1, THETA2, close


def pairs(values):
    return {f"layer.{i}.w": torch.tensor(values[2 * i : 2 * i + 2]) for i in range(3)}


def merge_pairs(experts=(THETA1, THETA2), **options):
    found = merge(pairs(BASE), [pairs(e) for e in experts], "lwptv", **options)
    return torch.cat(list(found.values())).numpy()


def test_card_16():
    assert merge_pairs() == close([0.725, -0.23125, 0.14375, 0.075, 0.3625, -0.51875])


def test_the_largest_layers_go_instead():
    # expert 1 loses its first pair, expert 2 its first
    wanted = np.array(BASE) + 0.3 * np.array([0, 0, -0.125, 0.5, 0.25, -0.0625])
    assert merge_pairs(prune="high") == close(wanted)


def test_no_layers_pruned_is_the_host():
    experts = [pairs(THETA1), pairs(THETA2)]
    for host in ("task_arithmetic", "ties"):
        found = merge(pairs(BASE), experts, "lwptv", share=0, host=host, scale=0.7)
        wanted = merge(pairs(BASE), experts, host, scale=0.7)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_all_layers_pruned_is_the_base():
    assert merge_pairs(share=1) == close(BASE)


def test_ties_ranks_what_is_left():
    masked = [
        [0.5, -0.375, 0.0625, 0.25, 0.0, 0.0],
        [0.25, 0.4375, 0.0, 0.0, 0.375, -0.0625],
    ]
    experts = [[b + t for b, t in zip(BASE, tau, strict=True)] for tau in masked]
    wanted = merge(pairs(BASE), [pairs(e) for e in experts], "ties", density=0.5, scale=0.3)
    found = merge_pairs(host="ties", density=0.5)
    assert found == close(torch.cat(list(wanted.values())).numpy())


def test_embeddings_stay_unless_tensors_are_layers():
    base = {"emb": torch.zeros(2), "h.0.w": torch.zeros(2), "h.1.w": torch.zeros(2)}
    expert = {"emb": torch.ones(2) / 8, "h.0.w": torch.ones(2), "h.1.w": torch.ones(2) * 2}
    blocks = merge(base, [expert], "lwptv", share=0.5, scale=1.0)
    assert [t.sum().item() for t in blocks.values()] == [0.25, 0, 4]
    tensors = merge(base, [expert], "lwptv", share=0.5, scale=1.0, layers="tensor")
    assert [t.sum().item() for t in tensors.values()] == [0, 2, 4]


def test_task_vectors_of_zero_give_the_base():
    assert merge_pairs(experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("options", [{"share": -0.1}, {"share": 2}, {"host": "dare"}, {"prune": "mid"}])
def test_options_that_cannot_be(options):
    with pytest.raises(PlanError, match=f"^lwptv: option '{next(iter(options))}'"):
        merge_pairs(**options)
