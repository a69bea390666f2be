"""RegMean: card 21."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import CheckpointError, NumericalError
from taskloom.store.statistic import Statistic

from ..fixture import THETA1, THETA2

W1, W2 = (np.array(t).reshape(2, 3) for t in (THETA1, THETA2))
X1 = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 2]], dtype=float)
X2 = np.array([[2, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)


def gram(x, name="w", **table):
    return Statistic.of("gram", {name: torch.tensor(x.T @ x / len(x), dtype=torch.float32)}, **table)


def regmean(*, pool=(W1, W2), statistics=None, **options):
    experts = [{"w": torch.tensor(w)} for w in pool]
    given = [gram(X1), gram(X2)] if statistics is None else statistics
    return merge(None, experts, "regmean", statistics=given, **{"ridge": 0.0, **options})["w"].numpy()


def error(w):
    return sum(((x @ (w - own).T) ** 2).sum() for x, own in ((X1, W1), (X2, W2)))


@pytest.mark.parametrize(
    ("factor", "expected", "loss"),
    [
        (1.0, [[0.7275, -0.2225, 0.065], [0.215, 0.315, -0.535]], 0.575313),
        (0.1, [[0.812497, -0.345343, 0.110291], [0.246398, 0.292458, -0.520146]], 0.678652),
        (0.0, [[0.821429, -0.354167, 0.116071], [0.25, 0.291667, -0.517857]], 0.700574),
    ],
)
def test_card_21(factor, expected, loss):
    found = regmean(off_diagonal=factor)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert error(found) == pytest.approx(loss, abs=1e-5)


def test_least_squares_has_the_smallest_error():
    best = error(regmean(off_diagonal=1.0))
    assert error((W1 + W2) / 2) == pytest.approx(0.751953, abs=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert error(regmean(off_diagonal=1.0) + rng.normal(scale=0.05, size=(2, 3))) > best


def test_the_default_factor_is_the_papers():
    assert np.array_equal(regmean(), regmean(off_diagonal=0.9))


def test_weights_multiply_the_gram_matrices():
    found = regmean(off_diagonal=1.0, weights=[0.2, 0.8])
    g1, g2 = X1.T @ X1 / 4 * 0.2, X2.T @ X2 / 4 * 0.8
    expected = np.linalg.solve(g1 + g2, g1 @ W1.T + g2 @ W2.T).T
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_weights_stored_turned():
    turned = [gram(x, transposed='["w"]') for x in (X1, X2)]
    found = regmean(pool=(W1.T, W2.T), statistics=turned, off_diagonal=1.0)
    np.testing.assert_allclose(found, regmean(off_diagonal=1.0).T, atol=1e-12)


def test_a_ridge_gives_the_mean_where_nothing_was_seen():
    seen = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    found = regmean(statistics=[gram(seen), gram(seen)], ridge=1e-6)
    np.testing.assert_allclose(found, (W1 + W2) / 2, atol=1e-6)
    nothing = [gram(np.zeros((2, 3)))] * 2
    np.testing.assert_allclose(regmean(statistics=nothing, ridge=1e-6), (W1 + W2) / 2, atol=1e-6)


def test_singular_without_a_ridge_is_said():
    with pytest.raises(NumericalError, match="'w' add up to a singular matrix"):
        regmean(statistics=[gram(np.zeros((2, 3)))] * 2)


def test_everything_but_linear_layers_is_averaged():
    experts = [{"w": torch.tensor(w), "b": torch.tensor([b])} for w, b in ((W1, 1.0), (W2, 2.0))]
    found = merge(None, experts, "regmean", statistics=[gram(X1), gram(X2)], weights=[1, 3])
    assert found["b"].tolist() == [1.75]


def test_gram_matrices_of_another_size_are_refused():
    with pytest.raises(CheckpointError, match=r"'w': expected shape \[3, 3\], found \[2, 2\]"):
        regmean(statistics=[gram(X1[:, :2]), gram(X2[:, :2])])
    with pytest.raises(CheckpointError, match=r"expected shape \[3, 3\], found \[2, 2\]"):
        regmean(statistics=[gram(X1), gram(X2[:, :2])])
    with pytest.raises(CheckpointError, match="only matrices have"):
        merge(None, [{"w": torch.ones(3)}] * 2, "regmean", statistics=[gram(X1), gram(X2)])
