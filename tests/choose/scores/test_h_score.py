"""H-score: how its directions are found; golden values and invariances are in test_scores.py."""

import importlib

import numpy as np
import pytest

from taskloom.choose.moments import moments
from taskloom.choose.scores import h_score

module = importlib.import_module("taskloom.choose.scores.h_score")


def clouds(seed=0, n=60, d=6, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[labels], labels


def test_gram_matrix_and_singular_values_agree():
    features, labels = clouds()
    centred = features - features.mean(0)
    u, singular, _ = np.linalg.svd(centred, full_matrices=False)
    sums = np.stack([u[labels == c].sum(0) for c in range(3)])
    counts = np.bincount(labels)
    found, along = module._by_eigenvectors(moments("h_score", features, labels, counts, centred=True))
    np.testing.assert_allclose(np.sort(found)[::-1], singular, rtol=1e-9)
    np.testing.assert_allclose(
        np.sort((along**2).sum(0)), np.sort((sums**2).sum(0)), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("spread", [1e2, 1e6, 1e9])
def test_ill_conditioned_features_score_the_same(spread):
    """The plain score does not change with the unit of a feature, however small."""
    features, labels = clouds()
    scaled = features * np.geomspace(1, 1 / spread, features.shape[1])
    assert h_score(scaled, labels) == pytest.approx(h_score(features, labels), rel=1e-5)


def test_a_repeated_column_changes_nothing():
    features, labels = clouds()
    twice = np.hstack([features, features[:, :2]])
    assert h_score(twice, labels) == pytest.approx(h_score(features, labels), rel=1e-8)


def test_one_column():
    features, labels = clouds(d=1)
    means = np.array([features[labels == c].mean() for c in labels])
    assert h_score(features, labels) == pytest.approx(means.var() / features.var())


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 0.0])
def test_the_inverse_and_the_eigenvectors_agree(scale):
    """Well conditioned features take the short way, nearly dependent ones the long: one value."""
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(200, 6)), np.arange(200) % 3
    features[:, 5] = features[:, 0] + scale * features[:, 5]
    centred = features - features.mean(0)
    _, indices, counts = np.unique(labels, return_inverse=True, return_counts=True)
    read = moments("h_score", features, indices, counts, centred=True)
    short = module._by_inverse(read, counts)
    assert (short is None) == (scale < 1e-4)
    between = np.stack([centred[labels == c].mean(0) for c in labels])
    rank = 1e-12 if scale == 0 else 1e-15
    wanted = np.trace(np.linalg.pinv(np.cov(features.T), rcond=rank) @ np.cov(between.T))
    assert h_score(features, labels) == pytest.approx(wanted, abs=1e-5)
    assert (module._by_eigenvectors(read) is None) == (scale < 1e-4)
