import numpy as np
import pytest

from taskloom.choose.data.gradient_similarity import gradient_similarity
from taskloom.errors import DataError, NumericalError


def data(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6))


def test_mean_and_max_are_over_target_examples():
    pool, target = data(9), data(4, 1)
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in target] for a in pool])
    np.testing.assert_allclose(gradient_similarity().fit(target, None, 0)(pool), cosines.mean(1))
    rule = gradient_similarity(over="max")
    np.testing.assert_allclose(rule.fit(target, None, 0)(pool), cosines.max(1))


def test_length_does_not_count():
    scorer = gradient_similarity().fit(data(3), None, 0)
    np.testing.assert_allclose(scorer(data(5, 2)), scorer(100 * data(5, 2)))


def test_bad_vectors_are_refused():
    scorer = gradient_similarity().fit(data(3), None, 0)
    with pytest.raises(NumericalError, match="item 0 holds NaN"):
        scorer([[np.inf] * 6])
    with pytest.raises(DataError, match="2 columns"):
        scorer(np.ones((1, 2)))
