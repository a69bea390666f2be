"""Model-based clustering: groups of alike adapters, whatever their gauge."""

import numpy as np
import pytest

from taskloom.choose.kmeans import kmeans
from taskloom.choose.lora_similarity import Factors, products
from taskloom.choose.sets import mbc
from taskloom.errors import DataError


def adapters(seed=0, families=3, each=4, noise=0.2):
    """LoRA factors of families that share a change, every one in a gauge of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(families):
        left, right = rng.normal(size=(9, 2)), rng.normal(size=(2, 7))
        for _ in range(each):
            gauge = rng.normal(size=(2, 2)) + 2 * np.eye(2)
            own = left + noise * rng.normal(size=left.shape)
            found.append(Factors(own @ np.linalg.inv(gauge), gauge @ right))
    return found


def cosines(factors):
    gram = products(factors)
    norms = np.sqrt(gram.diagonal())
    return gram / np.outer(norms, norms)


def test_families_are_found_through_their_gauges():
    found = mbc(cosines(adapters()), size=3)
    assert found.groups == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
    assert [c // 4 for c in found.chosen] == [0, 1, 2]
    assert all("within" in reason for reason in found.reasons)
    flat = np.array([np.r_[f.left.ravel(), f.right.ravel()] for f in adapters()])
    raw = kmeans(flat / np.linalg.norm(flat, axis=1, keepdims=True), 3, seed=42)
    assert tuple(raw.groups) != found.groups  # what the released code compares sees the gauge


def test_the_value_of_a_group_is_its_mean_cosine():
    table = cosines(adapters())
    found = mbc(table, size=3)
    for g, value in enumerate(found.values):
        rows = [i for i, of in enumerate(found.groups) if of == g]
        assert value == pytest.approx(np.mean([table[i, j] for i in rows for j in rows]))


def test_agrees_with_scikit_learn():
    from sklearn.cluster import KMeans

    table = cosines(adapters(seed=5, families=4, each=3, noise=0.6))
    theirs = KMeans(4, n_init=10, random_state=42).fit(table)
    assert kmeans(table, 4, seed=42, starts=30).spread <= theirs.inertia_ + 1e-9


@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_group_has_somebody(size):
    table = np.eye(5)
    found = mbc(table, size=size)
    assert set(found.groups) == set(range(size))
    same = mbc(np.ones((5, 5)), size=size)
    assert set(same.groups) == set(range(size))
    if size == 5:
        assert all(reason.endswith("alone") for reason in found.reasons)


def test_the_same_groups_for_the_same_seed():
    table = cosines(adapters(noise=1.0))
    assert mbc(table, size=4, seed=3).groups == mbc(table, size=4, seed=3).groups


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="found 3 of 2"):
        mbc(np.eye(2), size=3)
    with pytest.raises(DataError, match="symmetric"):
        mbc([[1.0, 0.5], [0.1, 1.0]], size=1)
