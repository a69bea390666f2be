"""Self-challenging Fisher discriminant: card A9."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.scores import sfda
from taskloom.choose.scores.sfda import default_shrinkage
from taskloom.errors import DataError, NumericalError

F = np.array([[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]], dtype=float)
Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def softmax(rows):
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def scatter(x, y):
    return sum((y == c).mean() * np.cov(x[y == c].T, bias=True) for c in np.unique(y))


def fitted(x, y, share):
    """As the paper does it: the eigenvectors of between against within, all of them."""
    from scipy.linalg import eigh

    def shrunk(s):
        return (1 - share) * s + share * np.trace(s) / len(s) * np.eye(len(s))

    within = shrunk(scatter(x, y))
    between = shrunk(np.cov(x.T, bias=True)) - within
    _, v = eigh(between, within)
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    coef = means @ v @ v.T
    priors = np.array([(y == c).mean() for c in np.unique(y)])
    return softmax(x @ coef.T - 0.5 * np.diag(means @ coef.T) + np.log(priors))


def by_eigenvectors(x, y):
    share = default_shrinkage(scatter(x, y))
    sure = softmax(fitted(x, y, share))
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    mixed = x.copy()
    for i, c in enumerate(y):
        others = np.delete(means, c, axis=0).mean(0)
        mixed[i] = sure[i, c] * x[i] + (1 - sure[i, c]) * others
    return fitted(mixed, y, share)[np.arange(len(y)), y].mean()


def test_card_a9():
    assert sfda(0.5 * F, Y) == pytest.approx(0.864569, abs=1e-6)
    assert sfda(F, Y) == pytest.approx(0.864320, abs=1e-6)
    assert default_shrinkage(scatter(0.5 * F, Y)) == pytest.approx(0.731616, abs=1e-6)
    assert default_shrinkage(scatter(F, Y)) == pytest.approx(0.286505, abs=1e-6)


def test_iris():
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    assert sfda(features, labels) == pytest.approx(0.876493, abs=1e-6)
    assert default_shrinkage(scatter(features, labels)) == pytest.approx(0.113782, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(2, 6), classes=st.integers(2, 4))
def test_equals_the_eigenvectors(seed, d, classes):
    rng = np.random.default_rng(seed)
    labels = np.arange(24) % classes
    features = 0.5 * rng.normal(size=(24, d)) + rng.normal(size=(4, d))[labels]
    assert sfda(features, labels) == pytest.approx(by_eigenvectors(features, labels), abs=1e-8)


def test_well_separated_examples_are_moved_all_the_same():
    """The softmax of probabilities lies between 0.27 and 0.73 for two classes."""
    labels = np.array([0] * 6 + [1] * 6)
    features = np.random.default_rng(0).normal(size=(12, 2)) + 50 * labels[:, None]
    share = default_shrinkage(scatter(features, labels))
    sure = softmax(fitted(features, labels, share))[np.arange(12), labels]
    np.testing.assert_allclose(sure, 1 / (1 + np.exp(-1)), atol=1e-6)
    assert sfda(features, labels) > 0.99


def test_turns_do_not_matter_once_the_shrinkage_is_fixed():
    """By default it is found by a power iteration that starts at the sums of rows."""
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 5)) + 2 * rng.normal(size=(3, 5))[labels]
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    one, other = (sfda(x, labels, shrinkage=0.1) for x in (features, features @ turn))
    assert one == pytest.approx(other, abs=1e-10)
    assert sfda(features @ turn, labels) == pytest.approx(sfda(features, labels), abs=1e-2)


def test_a_shrinkage_of_one_takes_a_round_scatter():
    value = sfda(F, Y, shrinkage=1.0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert value == pytest.approx(sfda(F @ turn, Y, shrinkage=1.0), abs=1e-12)
    assert value != pytest.approx(sfda(F, Y), abs=1e-6)


def test_the_start_of_the_power_iteration_may_see_nothing():
    flat = np.array([[1.0, -1.0], [-1.0, 1.0]])  # rows sum to 0
    assert default_shrinkage(flat) == pytest.approx(np.exp(-10))


def test_the_shrinkage_has_a_floor():
    assert default_shrinkage(np.eye(3) * 100) == 1e-10


def test_what_has_no_value():
    with pytest.raises(NumericalError, match="differ within their classes"):
        sfda(np.array([[0.0], [0.0], [1.0], [1.0]]), [0, 0, 1, 1])
    with pytest.raises(NumericalError, match="differ within their classes"):
        sfda(F[:4], np.arange(4))
    with pytest.raises(DataError, match="two classes"):
        sfda(F, np.zeros(8, dtype=int))
