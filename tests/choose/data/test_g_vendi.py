import numpy as np
import pytest

from taskloom.choose.data.g_vendi import g_vendi, g_vendi_score
from taskloom.choose.lloyd import assign, cluster
from taskloom.errors import DataError, NumericalError


def test_the_cards_numbers():
    assert g_vendi_score([[1, 0], [0.8, 0.6], [0, 1]]) == pytest.approx(1.889882, abs=1e-6)
    assert g_vendi_score([[3.0, 4.0], [3.0, 4.0]]) == pytest.approx(1.0)
    assert g_vendi_score(np.eye(7)) == pytest.approx(7.0)


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_it_is_the_entropy_of_the_gram_matrix(shape):
    vectors = np.random.default_rng(1).normal(size=shape)
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(scaled @ scaled.T / len(scaled))
    values = values[values > 1e-12]
    assert g_vendi_score(vectors) == pytest.approx(np.exp(-np.sum(values * np.log(values))))


def test_bad_gradients_are_refused():
    with pytest.raises(DataError, match="no direction"):
        g_vendi_score([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(NumericalError, match="item 1"):
        g_vendi_score([[1.0, 0.0], [np.nan, 0.0]])


def crowd(n, angle, spread=0.01, seed=0):
    angles = angle + spread * np.random.default_rng(seed).normal(size=n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_lone_gradients_come_before_crowds():
    pool = np.concatenate([crowd(60, 0.0), crowd(60, 2.0), crowd(2, 4.0), crowd(1, 5.0)])
    scores = g_vendi(share=0.03).fit(None, pool, 0)(pool)
    assert set(np.argsort(-scores)[:3]) <= set(range(len(pool)))
    assert scores[120:].min() > 1
    assert g_vendi_score(pool[np.argsort(-scores)[:20]]) > g_vendi_score(pool[:20])


def test_a_target_fills_its_region():
    pool = np.concatenate([crowd(10, 0.0), crowd(8, 2.0)])
    there = crowd(40, 2.0, seed=3)
    rule = g_vendi(share=2 / 58)
    scores = rule.fit(there, pool, 0)(pool)
    assert scores[:10].min() > scores[10:].max()


def test_scores_do_not_depend_on_the_order_or_the_chunks():
    pool = np.random.default_rng(0).normal(size=(40, 5))
    scorer = g_vendi().fit(None, pool, 3)
    whole = scorer(pool)
    np.testing.assert_array_equal(np.concatenate([scorer(pool[:7]), scorer(pool[7:])]), whole)
    assert not np.array_equal(g_vendi().fit(None, pool, 4)(pool), whole)


def test_clustering_ends_at_a_fixed_point():
    vectors = np.random.default_rng(2).normal(size=(80, 3))
    centres, sizes = cluster(vectors, 6, rounds=200, seed=0)
    nearest = assign(vectors, centres)
    distances = ((vectors[:, None] - centres) ** 2).sum(2)
    np.testing.assert_array_equal(nearest, distances.argmin(1))
    assert sizes.tolist() == np.bincount(nearest).tolist()
    for number, centre in enumerate(centres):
        np.testing.assert_allclose(vectors[nearest == number].mean(0), centre)


def test_equal_vectors_make_one_cluster():
    centres, sizes = cluster(np.ones((5, 2)), 3, rounds=5, seed=0)
    assert (centres.tolist(), sizes.tolist()) == ([[1.0, 1.0]], [5])
