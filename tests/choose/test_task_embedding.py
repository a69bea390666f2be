"""Task2Vec and TaskEmb: cards B1 and B2."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.choose import task_embedding as embedding
from taskloom.choose.task_embedding import DISTANCES, distances, fuse, task2vec, taskemb_cosines
from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.store.statistic import Statistic

H0, H1 = np.array([1, 0.2, 0.05]), np.array([0.5, 0.4, 0.05])


def fisher(kind="fisher", **tensors):
    return Statistic.of(kind, {n: torch.tensor(v, dtype=torch.float32) for n, v in tensors.items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scaled_cosine", 0.137931), ("variance_cosine", 0.008494), ("symmetric_kl", 0.306853),
        ("asymmetric_kl", 0.25), ("jensen_shannon", 0.019631), ("entropy", 0.037755),
    ],
)  # fmt: skip
def test_card_b1(name, value):
    assert DISTANCES[name](H0, H1) == pytest.approx(value, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=6))
def test_distances_are_zero_at_home_and_symmetric_but_one(pairs):
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    for name, measure in DISTANCES.items():
        assert measure(first, first) == pytest.approx(0.0, abs=1e-6)
        assert measure(first, second) >= -1e-12
        if name != "asymmetric_kl":
            assert measure(first, second) == pytest.approx(measure(second, first), abs=1e-9)


def test_a_common_unit_does_not_matter():
    """The released code's 1e-8 would outweigh such small information."""
    for measure in DISTANCES.values():
        assert measure(H0 * 1e-12, H1 * 1e-12) == pytest.approx(measure(H0, H1), abs=1e-9)


def test_a_filter_of_which_neither_has_information():
    first, second = np.append(H0, 0.0), np.append(H1, 0.0)
    assert embedding.scaled_cosine(first, second) == pytest.approx(embedding.scaled_cosine(H0, H1))
    assert embedding.entropy(first, second) == pytest.approx(0.75 * embedding.entropy(H0, H1))


def test_filters_are_rows_of_weights():
    found = task2vec(fisher(w=[[1.0, 3.0], [0.0, 4.0]], b=[9.0, 9.0], c=[[[2.0], [4.0]]]))
    np.testing.assert_allclose(found, [2.0, 2.0, 3.0])


def test_distances_between_statistics():
    sources = {"near": fisher(w=[[1.0], [2.1]]), "far": fisher(w=[[2.0], [0.1]])}
    found = distances(fisher(w=[[1.0], [2.0]]), sources)
    assert found["near"] < found["far"]
    assert found["near"] == embedding.scaled_cosine(np.array([1.0, 2.0]), np.float32([1.0, 2.1]))
    assert distances(fisher(w=[[1.0], [2.0]]), sources, measure="entropy")["far"] > 0


def test_per_example_and_not_per_batch():
    """As card B1 warns: two opposite gradients have information, the gradient of their mean has none."""
    from taskloom.learn.collect import collect
    from taskloom.learn.probe import Examples, Probe, Setting

    module = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    inputs, labels = torch.tensor([[2.0], [2.0]]), torch.tensor([0, 1])
    torch.nn.functional.cross_entropy(module(inputs), labels).backward()
    assert module.weight.grad.abs().max() == 0
    batches = Examples.of([(inputs, labels)])
    found = collect("fisher", Setting(Probe.of_module(module), batches), labels="given")
    np.testing.assert_allclose(task2vec(found), [1.0, 1.0])


def test_taskemb_compares_tensor_by_tensor():
    target = fisher(a=[1.0, 0.0], b=[[1.0, 1.0]])
    sources = {
        "x": fisher(a=[1.0, 1.0], b=[[1.0, 1.0]]),
        "y": fisher(a=[0.0, 0.0], b=[[1.0, 0.0]]),
    }
    found = taskemb_cosines(target, sources)
    np.testing.assert_allclose(found["x"], [np.sqrt(0.5), 1.0], atol=1e-7)
    np.testing.assert_allclose(found["y"], [0.0, np.sqrt(0.5)], atol=1e-7)


def test_card_b2_fusion():
    """Ranks 1, 2, 3 and 2, 1, 3 over three sources."""
    fused = fuse({"a": np.array([3.0, 2.0]), "b": np.array([2.0, 3.0]), "c": np.array([1.0, 1.0])})
    np.testing.assert_allclose(
        [2 * fused[name] for name in "abc"], [0.032522, 0.032522, 0.031746], atol=1e-6
    )


def test_equal_values_share_the_better_rank():
    fused = fuse({"a": np.array([1.0]), "b": np.array([1.0]), "c": np.array([0.0])})
    assert fused == {"a": 1 / 61, "b": 1 / 61, "c": 1 / 63}


def test_refusals():
    one = fisher(w=[[1.0], [2.0]])
    with pytest.raises(PlanError, match="expected the statistic 'fisher', found 'graft'"):
        task2vec(fisher("graft", w=[[1.0]]))
    with pytest.raises(PlanError, match="of some matrix, found none"):
        task2vec(fisher(b=[1.0, 2.0]))
    with pytest.raises(CheckpointError, match="'x' has 1 filters and the target's 2"):
        distances(one, {"x": fisher(w=[[1.0]])})
    with pytest.raises(CheckpointError, match=r"'x' .* has other tensors"):
        taskemb_cosines(one, {"x": fisher(v=[[1.0], [2.0]])})
    with pytest.raises(PlanError, match="unknown distance 'l2'; there are scaled_cosine"):
        distances(one, {"x": one}, measure="l2")
    with pytest.raises(NumericalError, match="found 1 filters without"):
        distances(one, {"x": fisher(w=[[0.0], [2.0]])}, measure="symmetric_kl")
    with pytest.raises(NumericalError, match="found none"):
        distances(one, {"x": fisher(w=[[0.0], [0.0]])})
