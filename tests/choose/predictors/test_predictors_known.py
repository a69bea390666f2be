"""What predictors are given, and the two that need no likeness of tasks."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.choose.predictors import Known, mean_gain, ridge_gain
from taskloom.errors import DataError, NumericalError


def known(change, scores=None, before=None):
    change = np.asarray(change, float)
    _, sources, others = change.shape
    given = [None if each is None else np.asarray(each, float) for each in (scores, before)]
    return Known(change, np.zeros(sources), np.zeros(others), *given)


def test_mean_gain_compares_sources_on_the_same_targets():
    """A source that was tried on the easy target alone is not better for it."""
    change = [[[0.5, 0.1], [0.4, np.nan]]]
    assert mean_gain(known(change)) == pytest.approx([(0.05 + 0.0) / 2, -0.05])


def test_mean_gain_takes_means_over_runs_first():
    change = [[[0.1], [0.0]], [[0.3], [np.nan]]]
    assert mean_gain(known(change)) == pytest.approx([0.1, -0.1])


def test_ridge_gain_is_ridge_regression_on_standardised_scores():
    random = np.random.default_rng(0)
    change, before = random.normal(size=(1, 6, 3)), random.normal(size=(2, 6, 3))
    scores = random.normal(size=(2, 6))
    inputs, outputs = [], []
    for p in range(3):
        column = before[:, :, p]
        unit = (column - column.mean(1, keepdims=True)) / column.std(1, keepdims=True)
        inputs.append(unit.T)
        outputs.append(change[0, :, p] - change[0, :, p].mean())
    x, y = np.vstack(inputs), np.concatenate(outputs)
    weights = np.linalg.solve(x.T @ x + 0.5 * len(y) * np.eye(2), x.T @ y)
    own = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
    assert ridge_gain(known(change, scores, before), penalty=0.5) == pytest.approx(own.T @ weights)


def test_ridge_gain_follows_the_score_that_was_right_and_not_its_scale():
    gain = np.array([0.3, 0.2, 0.1, 0.0])
    change = np.stack([gain, gain[::-1]], axis=1)[None]
    right, wrong = np.stack([gain, gain[::-1]], axis=1), np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]]).T
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 9.0]])
    found = ridge_gain(known(change, scores, np.stack([right, 0 * wrong])))
    assert list(np.argsort(-found)) == [0, 1, 2, 3]
    scaled = ridge_gain(known(change, scores, np.stack([1000 * right, 0 * wrong])))
    assert scaled == pytest.approx(found)


def test_a_score_that_is_missing_counts_as_average():
    change, before = [[[0.2], [0.0], [0.1]]], [[[2.0], [0.0], [np.nan]]]
    found = ridge_gain(known(change, [[1.0, -1.0, np.nan]], before))
    assert found[2] == pytest.approx((found[0] + found[1]) / 2)


def test_ridge_gain_without_scores_or_gains_is_refused():
    with pytest.raises(DataError, match="expected scores of the new target and of the others"):
        ridge_gain(known([[[0.1]]]))
    with pytest.raises(DataError, match="expected some known gain"):
        ridge_gain(known([[[np.nan]]], [[1.0]], [[[1.0]]]))


@pytest.mark.parametrize(
    ("change", "likeness", "pivots", "error", "said"),
    [
        (np.zeros((1, 2)), 2, 1, DataError, r"expected relative gains \(K, S, P\)"),
        (np.zeros((1, 2, 0)), 2, 0, DataError, r"expected relative gains \(K, S, P\)"),
        (np.zeros((1, 2, 3)), 3, 3, DataError, "expected a likeness for each of 2 sources and 3 other"),
        (np.zeros((1, 2, 3)), 2, 2, DataError, "expected a likeness for each of 2 sources and 3 other"),
        (np.full((1, 2, 3), np.inf), 2, 3, NumericalError, "expected finite relative gains"),
    ],
)
def test_what_does_not_fit_is_refused(change, likeness, pivots, error, said):
    with pytest.raises(error, match=said):
        Known(change, np.zeros(likeness), np.zeros(pivots))


def test_likenesses_are_finite_and_scores_come_in_pairs():
    with pytest.raises(NumericalError, match="expected finite likenesses"):
        Known(np.zeros((1, 1, 1)), np.array([np.nan]), np.zeros(1))
    with pytest.raises(DataError, match="expected scores"):
        known([[[0.1]]], scores=[[1.0]])
    with pytest.raises(DataError, match="expected scores"):
        known([[[0.1]]], [[1.0]], [[[1.0, 2.0]]])
