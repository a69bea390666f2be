"""LoraHub's merge: card 9 of the composition cards; adapters only."""

import numpy as np
import pytest
import torch

import taskloom
from taskloom.algebra.add_factors import add_factors
from taskloom.errors import PlanError
from taskloom.store.open import open_checkpoint

from .test_knots import adapters

A = [[[1.0, 0.0]], [[0.0, 1.0]]]
B = [[[1.0], [2.0]], [[2.0], [-1.0]]]
PAIRS = [(torch.tensor(b), torch.tensor(a)) for a, b in zip(A, B, strict=True)]


def run(weights, pairs=PAIRS):
    names = tuple(f"e{k}" for k in range(len(pairs)))
    left, right = add_factors(weights).factored.apply("w", names, pairs, None)
    return left.numpy(), right.numpy()


def test_card_9():
    left, right = run([0.5, -0.25])
    np.testing.assert_allclose(right, [[0.5, -0.25]])
    np.testing.assert_allclose(left, [[0.0], [1.25]])
    np.testing.assert_allclose(left @ right, [[0.0, 0.0], [0.625, -0.3125]])
    apart = sum(w * np.array(b) @ np.array(a) for w, a, b in zip([0.5, -0.25], A, B, strict=True))
    np.testing.assert_allclose(apart, [[0.5, -0.5], [1.0, 0.25]])


@pytest.mark.parametrize(("weight", "share"), [(1.0, 1.0), (0.5, 0.25), (0.0, 0.0), (-1.0, 1.0)])
def test_one_adapter_counts_by_the_square_of_its_weight(weight, share):
    left, right = run([weight, 0.0])
    np.testing.assert_allclose(left @ right, share * np.array(B[0]) @ np.array(A[0]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_rule_restated(count):
    rng = np.random.default_rng(count)
    pairs = [(rng.normal(size=(6, 3)), rng.normal(size=(3, 4))) for _ in range(count)]
    weights = rng.normal(size=count)
    left, right = run(weights.tolist(), [tuple(map(torch.from_numpy, pair)) for pair in pairs])
    wanted = sum(wi * wj * pi[0] @ pj[1] for wi, pi in zip(weights, pairs, strict=True)
                 for wj, pj in zip(weights, pairs, strict=True))  # fmt: skip
    np.testing.assert_allclose(left @ right, wanted, atol=1e-12)
    assert right.shape == (3, 4)


def test_without_weights_all_count_alike():
    for found, wanted in zip(run(None), run({"e0": 0.5, "e1": 0.5}), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_adapter_without_the_module_adds_nothing():
    none = (torch.zeros(2, 0), torch.zeros(0, 2))
    for pairs in ([none, PAIRS[1]], [PAIRS[1], none]):
        left, right = run([0.5, 0.5], pairs)
        np.testing.assert_allclose(left @ right, 0.25 * np.array(B[1]) @ np.array(A[1]))
    left, right = run([0.5, 0.5], [none, none])
    assert (left.shape, right.shape) == ((2, 0), (0, 2))


@pytest.mark.parametrize("alphas", [(3, 3), (6, 3)])
def test_adapters_into_an_adapter_of_the_same_rank(tmp_path, alphas):
    base, experts = adapters(tmp_path / "pool", ranks=(3, 3), alphas=alphas)
    weights = {"e0": 0.7, "e1": -1.2}
    report = taskloom.merge_adapters(
        base, dict(zip(weights, experts, strict=True)), "lorahub", tmp_path / "out", weights=weights
    )
    below = open_checkpoint(base)
    ours = open_checkpoint(tmp_path / "out", base=below)
    for name in ("up.weight", "down.weight"):
        left, right = 0, 0
        for expert, weight in zip(experts, weights.values(), strict=True):
            b, a, scaling = open_checkpoint(expert, base=below).factors(name)
            left, right = left + weight * scaling * b.numpy(), right + weight * a.numpy()
        found = (ours.read(name) - below.read(name)).numpy()
        np.testing.assert_allclose(found, left @ right, atol=1e-4)
    assert [module.rank for module in report.modules] == [3, 3]
    assert torch.equal(ours.read("up.bias"), below.read("up.bias"))
    assert report.weights == weights


def test_weights_of_zero_give_the_base(tmp_path):
    base, experts = adapters(tmp_path / "pool", ranks=(2, 2))
    taskloom.merge_adapters(base, experts, "lorahub", tmp_path / "out", weights=[0.0, 0.0])
    below = open_checkpoint(base)
    ours = open_checkpoint(tmp_path / "out", base=below)
    assert all(torch.equal(ours.read(name), below.read(name)) for name in below.tensors)


def test_ranks_that_differ_are_refused(tmp_path):
    base, experts = adapters(tmp_path / "pool", ranks=(2, 3))
    with pytest.raises(PlanError, match=r"weight': the adapters' ranks differ \(e0 2, e1 3\)"):
        taskloom.merge_adapters(base, experts, "lorahub", tmp_path / "out")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "1 weights were given for 2 experts"),
        ({"e0": 1.0}, "weights lack the experts e1"),
        ({"e0": 1.0, "e2": 1.0}, "name the expert 'e2'"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, weights, said):
    base, experts = adapters(tmp_path / "pool", ranks=(2, 2))
    with pytest.raises(PlanError, match=said):
        taskloom.merge_adapters(base, experts, "lorahub", tmp_path / "out", weights=weights)


def test_full_checkpoints_are_refused():
    weights = {"w": torch.zeros(3, 3)}
    with pytest.raises(PlanError, match="works on the factors of adapters and has no rule for full"):
        taskloom.merge(weights, [weights, weights], "lorahub")
