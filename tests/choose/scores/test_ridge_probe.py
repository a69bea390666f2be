"""The ridge probe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.scores import ridge_probe
from taskloom.choose.scores.ridge_probe import _predict
from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.registry import get

PENALTIES = (0.1, 1.0, 10.0, 100.0)


def problem(noise, n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    return features, features @ rng.normal(size=d) + noise * rng.normal(size=n)


def ridge(x, y, at, penalty):
    """Normal equations, the constant not penalised."""
    mean, scale = x.mean(0), x.std(0)
    z = (x - mean) / scale
    w = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
    return y.mean() + (at - mean) / scale @ w


def left_out(x, y, penalty):
    """Squared leave-one-out error by refitting on the columns as standardised by all."""
    z = (x - x.mean(0)) / x.std(0)
    total = 0.0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        a = np.hstack([np.ones((len(x), 1)), z])
        cost = np.diag([0.0] + [penalty] * x.shape[1])
        w = np.linalg.solve(a[rest].T @ a[rest] + cost, a[rest].T @ y[rest])
        total += (y[i] - a[i] @ w) ** 2
    return total


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.sampled_from([0.1, 1.0, 10.0]))
def test_predictions_are_those_of_the_penalty_that_leaves_out_best(seed, noise):
    x, y = problem(noise, n=16, d=4, seed=seed)
    at = np.random.default_rng(seed + 1).normal(size=(3, 4))
    best = min(PENALTIES, key=lambda p: left_out(x, y, p))
    np.testing.assert_allclose(_predict(x, y[:, None], at, PENALTIES)[:, 0], ridge(x, y, at, best))


def test_r_squared_by_hand():
    x, y = problem(0.5, n=20)
    order = np.random.default_rng([0, 0]).permutation(20)
    error = plain = 0.0
    for fold in range(4):
        held = order[fold::4]
        fit = np.array([i for i in range(20) if i not in held])
        error += ((y[held] - ridge(x[fit], y[fit], x[held], 1.0)) ** 2).sum()
        plain += ((y[held] - y[fit].mean()) ** 2).sum()
    found = ridge_probe(x, y, folds=4, penalties=(1.0,))
    assert found == pytest.approx(1 - error / plain, abs=1e-10)


def test_signal_and_noise():
    assert ridge_probe(*problem(0.01)) > 0.99
    x, _ = problem(0.0)
    assert abs(ridge_probe(x, np.random.default_rng(9).normal(size=60))) < 0.3


def test_unit_and_origin_of_features_and_targets_do_not_matter():
    x, y = problem(1.0)
    value = ridge_probe(x, y)
    assert ridge_probe(x * [1, 10, 0.01, 5, 1] + 3, y) == pytest.approx(value, abs=1e-10)
    assert ridge_probe(x, 40 * y - 7) == pytest.approx(value, abs=1e-10)


def test_several_targets_are_averaged():
    x, y = problem(1.0)
    other = np.random.default_rng(5).normal(size=60)
    both = ridge_probe(x, np.stack([y, other], 1))
    assert both == pytest.approx((ridge_probe(x, y) + ridge_probe(x, other)) / 2, abs=1e-12)


def test_repeats_average_over_orders():
    x, y = problem(3.0)
    assert ridge_probe(x, y, seed=1) != ridge_probe(x, y, seed=2)
    assert ridge_probe(x, y, repeats=3) == ridge_probe(x, y, repeats=3)


def test_fewer_examples_than_dimensions_and_a_constant_column():
    x, y = problem(0.1, n=12, d=40)
    assert np.isfinite(ridge_probe(x, y))
    x, y = problem(0.1)
    padded = np.hstack([x, np.full((60, 1), 4.0)])
    assert ridge_probe(padded, y) == pytest.approx(ridge_probe(x, y), abs=1e-12)


def test_refusals():
    x, y = problem(1.0, n=4)
    with pytest.raises(DataError, match="at most 4 folds"):
        ridge_probe(x, y)
    with pytest.raises(DataError, match="and a penalty, found 2 and 0"):
        ridge_probe(x, y, folds=2, penalties=())
    with pytest.raises(DataError, match="targets that differ"):
        ridge_probe(x, np.ones(4))
    with pytest.raises(NumericalError, match="expected finite features"):
        ridge_probe(x * np.inf, y)
    with pytest.raises(PlanError, match="penalties"):
        get("score", "ridge_probe").validate({"penalties": [0.0]})
