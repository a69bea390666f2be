"""Karcher mean: card 4, and the property that defines it."""

import numpy as np
import pytest
import torch

from taskloom import merge

from ..fixture import TAU1, TAU2, close, merged


def mean(vectors, **options):
    pool = [{"w": torch.tensor(v, dtype=torch.float64)} for v in vectors]
    return merge(None, pool, "karcher", **options)["w"].numpy()


def unit(v):
    return np.asarray(v) / np.linalg.norm(v)


def test_card_4_of_two_is_slerp_at_a_half():
    """The middle of an arc, whatever the lengths; three of one and one of the other: t = 3/4."""
    found = mean([TAU1, TAU2, TAU2, TAU2], iterations=100, tolerance=1e-12)
    wanted = [0.626966, 0.369081, -0.215386, 0.481344, 0.430773, -0.083931]
    assert unit(found) == pytest.approx(np.array(wanted), abs=1e-5)
    lengths = np.linalg.norm(TAU1), np.linalg.norm(TAU2)
    assert np.linalg.norm(found) == pytest.approx((lengths[0] + 3 * lengths[1]) / 4)


def test_the_tangents_at_the_mean_cancel():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 9)) + 0.7
    point = unit(mean(vectors, iterations=200, tolerance=1e-13))
    tangents = []
    for v in vectors:
        cosine = unit(v) @ point
        angle = np.arccos(cosine)
        tangents.append(angle / np.sin(angle) * (unit(v) - cosine * point))
    np.testing.assert_allclose(np.mean(tangents, axis=0), 0, atol=1e-10)


def test_no_iterations_give_the_mean_direction():
    found = mean([[1.0, 0.0], [0.0, 3.0]], iterations=0)
    assert found == pytest.approx(np.sqrt(2) * np.array([1.0, 1.0]))


def test_zero_counts_in_the_length_alone():
    assert merged("karcher", base=None, experts=([0.0, 0.0], [0.0, 2.0])) == close([0.0, 1.0])
    assert merged("karcher", base=None, experts=([0.0], [0.0])) == close([0.0])


def test_floor():
    tiny = [1e-6, 0.0]
    assert merged("karcher", base=None, experts=(tiny, [0.0, 2.0]), floor=1e-5) == close([0.0, 1.0])
    bent = merged("karcher", base=None, experts=(tiny, [0.0, 2.0]))
    assert bent == close([np.sqrt(0.5), np.sqrt(0.5)])
