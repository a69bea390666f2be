"""PARC: card A8, and where the released code ranks rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from taskloom.choose.likeness import average_ranks, mean_over_draws, rank_deviation, spearman_of
from taskloom.choose.pca import principal
from taskloom.choose.scores import parc
from taskloom.choose.scores.parc import parc_with_error
from taskloom.errors import DataError, NumericalError

F3 = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [1, 4, 3], [3, 0, 0.5]])
Y3 = np.array([0, 0, 1, 1, 0])


def pairs(features, labels):
    """Dissimilarities of features and of one-hot labels over all pairs, in loops."""
    z = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    first, second = [], []
    for i in range(len(z)):
        for j in range(i):
            first.append(1 - np.corrcoef(z[i], z[j])[0, 1])
            second.append(float(labels[i] != labels[j]))
    return np.round(first, 12), second


def slow(features, labels):
    return 100 * spearmanr(*pairs(features, labels)).statistic


def test_card_a8():
    assert parc(F3, Y3) == pytest.approx(56.853524, abs=1e-6)
    assert parc(F3, Y3) == pytest.approx(slow(F3, Y3), abs=1e-6)


def test_iris_and_the_rounding_that_the_released_code_ranks():
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    z = (features - features.mean(0)) / features.std(0)
    upper = np.triu_indices(len(z), 1)
    first, second = (1 - np.corrcoef(m)[upper] for m in (z, np.eye(3)[labels]))
    assert len(np.unique(second)) == 3, "0, its rounding, and 1.5"
    assert 100 * spearmanr(first, second).statistic == pytest.approx(61.217010, abs=1e-5)
    wanted = 100 * spearmanr(first, np.round(second, 9)).statistic
    assert parc(features, labels) == pytest.approx(wanted, abs=1e-4)
    assert wanted == pytest.approx(58.679784, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(3, 6), classes=st.integers(2, 5))
def test_equals_the_loops(seed, d, classes):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(14) % classes) * 3
    features = rng.normal(size=(14, d))
    assert parc(features, labels) == pytest.approx(slow(features, labels), abs=1e-6)


def test_repeated_examples_tie():
    features, labels = np.vstack([F3, F3[:3]]), np.array([0, 0, 1, 1, 0, 0, 1, 1])
    assert parc(features, labels) == pytest.approx(slow(features, labels), abs=1e-6)


def test_scales_and_shifts_of_features_do_not_matter():
    scaled = F3 * [3, 0.1, 20] + [5, -1, 0]
    assert parc(scaled, Y3) == pytest.approx(parc(F3, Y3), abs=1e-9)


def test_wide_features_are_reduced_first():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 12)), np.arange(30) % 3
    reduced = principal(features)[0][:, :5]
    assert parc(features, labels, components=5) == pytest.approx(parc(reduced, labels), abs=1e-9)
    assert parc(features, labels) == parc(features, labels, components=None)


def test_signs_of_components_matter_and_are_fixed():
    """Rows are centred over components, so the convention for signs is part of the score."""
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(25, 6)), np.arange(25) % 2
    reduced = principal(features)[0][:, :4]
    flipped = reduced * [1, -1, 1, 1]
    assert abs(parc(flipped, labels) - parc(reduced, labels)) > 1e-3
    assert parc(features[:, ::-1], labels, components=4) == pytest.approx(
        parc(features, labels, components=4), abs=1e-8
    )


def test_more_than_most_are_drawn_from():
    rng = np.random.default_rng(2)
    labels = np.arange(400) % 4
    features = rng.normal(size=(400, 8)) + 2 * rng.normal(size=(4, 8))[labels]
    whole, sure = parc_with_error(features, labels)
    value, error = parc_with_error(features, labels, most=150, draws=8)
    assert sure == 0.0
    assert 0 < error < 3
    assert abs(value - whole) < 6 * error
    assert parc(features, labels, most=150, draws=8) == value
    assert parc(features, labels, most=150, draws=8, seed=1) != value
    assert parc_with_error(features, labels, most=150, draws=1)[1] == np.inf


def test_draws_are_without_replacement_and_differ():
    seen = []
    mean_over_draws(lambda rows: seen.append(rows.tolist()) or 0.0, 10, most=6, draws=3, seed=0)
    assert [len(set(rows)) for rows in seen] == [6, 6, 6]
    assert len({tuple(rows) for rows in seen}) > 1


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30))
def test_ranks_are_average_ranks(values):
    from scipy.stats import rankdata

    given_values = np.array(values, dtype=float)
    np.testing.assert_array_equal(average_ranks(given_values), rankdata(given_values))
    assert rank_deviation(np.sort(given_values)) == pytest.approx(rankdata(given_values).std())


def test_spearman_is_scipy_s():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, size=(2, 40)).astype(float)
    assert spearman_of(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_what_has_no_value():
    with pytest.raises(DataError, match="two examples or more of some class"):
        parc(F3, np.arange(5))
    with pytest.raises(NumericalError, match=r"differ within each example.*of 1 standardised columns"):
        parc(F3[:, :1], Y3)
    two = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
    assert np.isfinite(parc(two, [0, 1, 0, 1, 0, 1]))
