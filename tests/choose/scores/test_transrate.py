"""TransRate: card A6."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.scores import transrate

T = np.array([[3, 0], [3.2, 0.1], [0, 3], [0.1, 3.1], [-2, -2], [-2.2, -1.9]])
TY = [0, 0, 1, 1, 2, 2]
F = np.array([[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]], dtype=float)


def written_out(features, labels, epsilon=1e-4, weighted=True):
    """The formula over eigenvalues of the full D x D matrices."""
    labels = np.asarray(labels)
    z = features - features.mean(0)

    def rate(rows):
        values = np.linalg.eigvalsh(rows.T @ rows) / (len(rows) * epsilon)
        return 0.5 * np.log1p(np.maximum(values, 0)).sum()

    classes = np.unique(labels)
    shares = [(labels == c).mean() if weighted else 1 / len(classes) for c in classes]
    return rate(z) - sum(s * rate(z[labels == c]) for s, c in zip(shares, classes, strict=True))


def test_card_a6():
    assert transrate(T, TY) == pytest.approx(2.988934, abs=1e-6)
    unbalanced = [0, 0, 0, 1, 1, 1, 1, 1]
    assert transrate(F, unbalanced) == pytest.approx(0.052099, abs=1e-6)
    assert transrate(F, unbalanced, weighted=False) == pytest.approx(0.071667, abs=1e-6)


def test_iris():
    from sklearn.datasets import load_iris

    assert transrate(*load_iris(return_X_y=True)) == pytest.approx(0.589405, abs=1e-6)


def test_two_symmetric_classes_give_zero_however_far_apart():
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    assert transrate(F, labels) == pytest.approx(0.0, abs=1e-12)
    one = np.array([[0.0, 1.0], [0.0, -1.0]])
    for gap in (1.0, 100.0):
        both = np.vstack([one + np.array([gap, 0]), one - np.array([gap, 0])])
        assert transrate(both, [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), d=st.integers(1, 12), weighted=st.booleans(),
    epsilon=st.sampled_from([1e-4, 1e-2, 1.0]),
)  # fmt: skip
def test_equals_the_formula(seed, d, weighted, epsilon):
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(15, d)), np.arange(15) % 4
    found = transrate(features, labels, epsilon=epsilon, weighted=weighted)
    assert found == pytest.approx(written_out(features, labels, epsilon, weighted), abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_is_never_negative_when_weighted(seed):
    """log det is concave, and the classes' second moments average to the whole's."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=12)
    labels[:2] = 0, 1
    assert transrate(rng.normal(size=(12, 3)), labels) >= -1e-10


def test_unit_rows_are_rows_of_length_one():
    centred = T - T.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)

    def rate(rows):
        return 0.5 * np.linalg.slogdet(np.eye(2) + rows.T @ rows / (len(rows) * 1e-4))[1]

    wanted = rate(unit) - np.mean([rate(unit[i : i + 2]) for i in (0, 2, 4)])
    assert transrate(T, TY, unit_rows=True) == pytest.approx(wanted, abs=1e-9)
    assert transrate(T * 50, TY, unit_rows=True) == pytest.approx(wanted, abs=1e-9)
    assert abs(transrate(T * 50, TY) - transrate(T, TY)) > 1e-4


def test_a_row_at_the_mean_stays():
    features = np.vstack([F, -F + 2 * F.mean(0), F.mean(0)[None]])
    labels = np.arange(17) % 2
    assert np.isfinite(transrate(features, labels, unit_rows=True))
