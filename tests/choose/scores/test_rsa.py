"""Representational similarity: card A8."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from taskloom.choose.scores import rsa
from taskloom.errors import DataError, NumericalError

F3 = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [1, 4, 3], [3, 0, 0.5]])
Y3 = np.array([0, 0, 1, 1, 0])
OTHER = F3 @ [[1, 0.2, 0], [0, 1, 0.3], [0.1, 0, 1]]


def slow(first, second):
    upper = np.triu_indices(len(first), 1)
    found = [(1 - np.corrcoef((m - m.mean(0)) / m.std(0)))[upper].round(12) for m in (first, second)]
    return 100 * spearmanr(*found).statistic


def test_card_a8():
    assert rsa(F3, Y3, OTHER) == pytest.approx(92.727273, abs=1e-6)


def test_the_reference_itself():
    assert rsa(F3, Y3, F3) == pytest.approx(100.0)
    assert rsa(F3, Y3, F3 * [2, 3, 4] + 1) == pytest.approx(100.0)


def test_symmetric_and_blind_to_labels():
    assert rsa(F3, Y3, OTHER) == pytest.approx(rsa(OTHER, 1 - Y3, F3))


def test_equals_the_formula_for_models_of_other_widths():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 6))
    second = np.hstack([first[:, :3] + 0.5 * rng.normal(size=(20, 3)), rng.normal(size=(20, 1))])
    assert rsa(first, np.arange(20) % 2, second) == pytest.approx(slow(first, second), abs=1e-6)


def test_draws():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 6))
    second, labels = first + rng.normal(size=(300, 6)), np.arange(300) % 2
    whole, drawn = rsa(first, labels, second), rsa(first, labels, second, most=100, draws=6)
    assert drawn == pytest.approx(whole, abs=8)
    assert drawn != whole


def test_bad_references():
    with pytest.raises(DataError, match=r"expected reference_features \(5, D\).*found \(4, 3\)"):
        rsa(F3, Y3, OTHER[:4])
    with pytest.raises(NumericalError, match="rsa: reference_features: expected finite"):
        rsa(F3, Y3, OTHER * np.nan)
    with pytest.raises(NumericalError, match="reference_features: expected features that differ"):
        rsa(F3, Y3, np.ones((5, 3)))
