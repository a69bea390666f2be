"""Halves of the labels: how they are dealt, and when an order counts as reliable."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from taskloom.choose.reliability import expected_loss, halves, mean_ranks, stability
from taskloom.choose.scores import knn
from taskloom.errors import DataError


def test_halves_are_disjoint_and_even():
    labels = np.array([0] * 7 + [1] * 4 + [2])
    for first, second in halves(labels, draws=20, seed=1):
        assert sorted([*first, *second]) == list(range(12))
        for label, size in ((0, 7), (1, 4), (2, 1)):
            counts = sorted([(labels[first] == label).sum(), (labels[second] == label).sum()])
            assert counts == [size // 2, size - size // 2]
        assert abs(len(first) - len(second)) <= 1
    lone = {(labels[first] == 2).sum() for first, _ in halves(labels, draws=40, seed=1)}
    assert lone == {0, 1}


def test_agreement_is_spearman_s_with_scipy():
    values = np.random.default_rng(0).normal(size=(6, 2, 7))
    wanted = np.mean([spearmanr(a, b).statistic for a, b in values])
    assert stability(values).agreement == pytest.approx(wanted)
    flat = np.zeros((3, 2, 4))
    assert stability(flat).agreement == 0.0
    assert not stability(flat).reliable


def scored(strength, n, seed, sources=6):
    """Nearest neighbours of sources that separate two classes by more and more."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = [rng.normal(size=(n, 4)) + strength * k * np.eye(2, 4)[labels] for k in range(sources)]
    return stability(
        np.array(
            [
                [[knn(f[half], labels[half]) for f in features] for half in pair]
                for pair in halves(labels, draws=10, seed=seed)
            ]
        )
    )


def test_sources_that_differ_are_told_apart_and_equal_ones_are_not():
    apart = [scored(0.8, 80, seed).reliable for seed in range(6)]
    equal = [scored(0.0, 80, seed).reliable for seed in range(6)]
    few = [scored(0.8, 6, seed).agreement for seed in range(6)]
    assert all(apart)
    assert not any(equal)
    assert np.mean(few) < np.mean([scored(0.8, 80, seed).agreement for seed in range(6)])


def test_no_difference_means_no_agreement_on_average():
    found = [scored(0.0, 40, seed).agreement for seed in range(25)]
    assert abs(np.mean(found)) < 0.2


def test_ranks_and_losses():
    values = np.array([[0.9, 0.5, 0.5], [1.0, 3.0, 2.0]])
    np.testing.assert_allclose(mean_ranks(values), [2.0, 1.75, 2.25])
    np.testing.assert_allclose(mean_ranks(values[:, None, :]), [[2.0, 1.75, 2.25]])
    table = np.array([[0.5, 0.7], [0.6, 0.4]])
    np.testing.assert_allclose(expected_loss(table), [(0.2 + 0) / 2, (0 + 0.2) / 2])


def test_one_source_cannot_be_ranked():
    with pytest.raises(DataError, match="two sources or more"):
        stability(np.ones((3, 2, 1)))
