"""Gaussian Bhattacharyya coefficient: card A7."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.pca import principal
from taskloom.choose.scores import gbc

F = np.array([[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]], dtype=float)
Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
FU = F * np.where(Y == 1, 2.0, 1.0)[:, None] ** [[0, 1]]


def loops(features, labels, covariance, *, exact=True):
    """Bhattacharyya's distance with full covariance matrices, pair by pair."""
    total = 0.0
    d = features.shape[1]
    clouds = {}
    for c in np.unique(labels):
        rows = features[labels == c]
        spread = np.maximum(rows.var(0), 1e-4)
        clouds[c] = rows.mean(0), np.full(d, spread.mean()) if covariance == "spherical" else spread
    for i in clouds:
        for j in clouds:
            if i == j:
                continue
            (a, s), (b, t) = clouds[i], clouds[j]
            middle = np.diag((s + t) / 2)
            apart = (a - b) @ np.linalg.inv(middle) @ (a - b) / 8
            logs = 0.5 * np.log(
                np.linalg.det(middle) / np.sqrt(np.linalg.det(np.diag(s)) * np.linalg.det(np.diag(t)))
            )
            total -= np.exp(-apart - (logs if exact else logs / d))
    return total


def test_card_a7():
    for covariance in ("spherical", "diagonal"):
        for released in (False, True):
            value = gbc(F, Y, covariance=covariance, released=released)
            assert value == pytest.approx(-0.164170, abs=1e-6)
    assert gbc(FU, Y, covariance="diagonal") == pytest.approx(-0.018903, abs=1e-6)
    assert gbc(FU, Y, released=True) == pytest.approx(-0.004387, abs=1e-6)
    assert gbc(FU, Y) == pytest.approx(-0.004170, abs=1e-6)


def test_iris():
    from sklearn.datasets import load_iris

    iris = load_iris(return_X_y=True)
    assert gbc(*iris, covariance="diagonal") == pytest.approx(-0.230686, abs=1e-6)
    assert gbc(*iris, released=True) == pytest.approx(-0.337804, abs=1e-6)
    assert gbc(*iris) == pytest.approx(-0.330088, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), d=st.integers(1, 6), classes=st.integers(2, 5),
    covariance=st.sampled_from(["spherical", "diagonal"]),
)  # fmt: skip
def test_equals_full_matrices(seed, d, classes, covariance):
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % classes
    features = rng.normal(size=(20, d)) * rng.uniform(0.2, 2, size=d) + rng.normal(size=(5, d))[labels]
    found = gbc(features, labels, covariance=covariance)
    assert found == pytest.approx(loops(features, labels, covariance), abs=1e-9)
    assert -classes * (classes - 1) <= found <= 0
    if covariance == "spherical":
        released = loops(features, labels, covariance, exact=False)
        assert gbc(features, labels, released=True) == pytest.approx(released, abs=1e-9)


def test_identical_clouds_overlap_in_full():
    features = np.vstack([F, F, F])
    assert gbc(features, np.repeat([0, 1, 2], 8)) == pytest.approx(-6.0)


def test_classes_without_spread_have_the_floor():
    features = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert gbc(features, [0, 0, 1, 1]) == pytest.approx(-2 * np.exp(-1 / 8e-4))
    assert gbc(features / 100, [0, 0, 1, 1]) == pytest.approx(-2 * np.exp(-1e-4 / 8e-4))


def test_wide_features_are_reduced_first():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 9)), np.arange(40) % 3
    reduced = principal(features)[0][:, :4]
    assert gbc(features, labels, components=4) == pytest.approx(gbc(reduced, labels), abs=1e-12)
    assert gbc(features, labels, components=9) == gbc(features, labels, components=None)


def test_turns_matter_to_diagonal_clouds_only():
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    assert gbc(FU @ turn, Y) == pytest.approx(gbc(FU, Y), abs=1e-12)
    diagonal = gbc(FU, Y, covariance="diagonal")
    assert abs(gbc(FU @ turn, Y, covariance="diagonal") - diagonal) > 1e-3
