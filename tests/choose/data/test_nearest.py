import numpy as np
import pytest

from taskloom.choose.data import nearest as module
from taskloom.choose.data.nearest import nearest
from taskloom.errors import DataError, NumericalError


def data(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5))


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_it_is_the_mean_of_the_largest_cosines(neighbours):
    pool, target = data(11), data(7, 1)
    scores = nearest(neighbours=neighbours).fit(target, None, 0)(pool)
    for vector, score in zip(pool, scores, strict=True):
        cosines = [v @ vector / np.linalg.norm(v) / np.linalg.norm(vector) for v in target]
        assert score == pytest.approx(np.mean(sorted(cosines)[-neighbours:]))


def test_blocks_do_not_show(monkeypatch):
    pool, target = data(50), data(7, 1)
    whole = nearest().fit(target, None, 0)(pool)
    monkeypatch.setattr(module, "_CELLS", 21)
    np.testing.assert_allclose(nearest().fit(target, None, 0)(pool), whole)


def test_bad_vectors_are_refused():
    with pytest.raises(DataError, match="3 neighbours of 2 target"):
        nearest(neighbours=3).fit(data(2), None, 0)
    with pytest.raises(NumericalError, match="item 1 holds NaN"):
        nearest().fit(data(2), None, 0)([[0.0] * 5, [np.nan] * 5])
    with pytest.raises(DataError, match="4 columns"):
        nearest().fit(data(2), None, 0)(np.ones((1, 4)))
    with pytest.raises(DataError, match="shape"):
        nearest().fit(np.ones(3), None, 0)


def test_a_vector_of_zeros_is_like_nothing():
    assert nearest().fit(data(2), None, 0)(np.zeros((1, 5))).tolist() == [0.0]
