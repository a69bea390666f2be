"""Consistency and diversity: the card's numbers, scikit-learn's densities, and what is taken."""

import numpy as np
import pytest

from taskloom.choose.sets import consistency_diversity
from taskloom.choose.sets.consistency_diversity import joined, log_density, log_ratios, outside
from taskloom.errors import DataError, NumericalError


def test_the_card_s_numbers():
    source, target = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[1.0, 1, 0], [0, 0, 2]])
    assert outside(target, joined(np.zeros((0, 3)), source, 2)) == pytest.approx(2.0)
    points = np.array([[0.0], [0.25], [2.0]])
    found = log_ratios(points, np.array([[0.0], [0.5]]), 0.5, np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(np.exp(found), [1.605992, 1.995055, 0.011441], atol=1e-6)


def test_densities_are_scikit_learn_s():
    from sklearn.neighbors import KernelDensity

    rng = np.random.default_rng(0)
    points, first, second = (rng.normal(size=(n, 4)) for n in (9, 20, 15))
    theirs = [KernelDensity(bandwidth=0.7).fit(c).score_samples(points) for c in (first, second)]
    ours = [log_density(points, c, 0.7) for c in (first, second)]
    np.testing.assert_allclose(ours[0] - ours[1], theirs[0] - theirs[1], atol=1e-9)


def test_hundreds_of_dimensions_neither_vanish_nor_overflow():
    rng = np.random.default_rng(1)
    near, far = rng.normal(size=(30, 768)), 9 + rng.normal(size=(30, 768))
    assert np.isfinite(log_ratios(far, near, 0.5)).all()
    density = np.exp(log_density(far, near, 0.5))
    assert (density == 0).all()  # what the released comparison would divide


def drawn():
    """A target in the first four axes; two sources have two each, one is a copy, one far."""
    rng = np.random.default_rng(2)

    def cloud(axes, shift=0.0):
        found = 0.05 * rng.normal(size=(40, 8)) + shift
        found[:, axes] += rng.normal(size=(40, len(axes)))
        return found

    first = cloud([0, 1])
    return cloud([0, 1, 2, 3]), [first, first.copy(), cloud([2, 3]), cloud([0, 1], 30.0)]


def test_unlike_sources_are_left_out_and_copies_add_too_little():
    target, sources = drawn()
    found = consistency_diversity(target, sources, size=4, bandwidth=3.0, directions=2, least_gain=0.1)
    assert set(found.chosen) in ({0, 2}, {1, 2})
    assert found.reasons[3].startswith("unlike the target")
    assert sum(reason.startswith("adds too little") for reason in found.reasons) == 1
    assert found.note.startswith("2 of 4 sources span")


def test_each_step_takes_the_one_that_leaves_least():
    target, sources = drawn()
    found = consistency_diversity(target, sources, size=2, bandwidth=3.0, directions=2)

    def left(ks):
        rows = np.concatenate([np.linalg.svd(sources[k])[2][:2] for k in ks])
        coefficients = np.linalg.lstsq(rows.T, target.T, rcond=None)[0]
        return np.linalg.norm(target.T - rows.T @ coefficients)

    first, second = found.chosen
    assert left([first]) == pytest.approx(min(left([k]) for k in range(3)))
    assert left([first, second]) == pytest.approx(min(left([first, k]) for k in range(3) if k != first))
    assert sum(found.values) == pytest.approx(np.linalg.norm(target) - left([first, second]))


def test_none_is_consistent():
    target, sources = drawn()
    found = consistency_diversity(target, sources[3:], size=1, bandwidth=3.0)
    assert found.chosen == ()
    assert found.note == "no source is consistent with the target"


@pytest.mark.parametrize(
    ("target", "sources", "error", "told"),
    [
        (np.ones((2, 3)), [np.ones((2, 4))], DataError, "one width, found 3, 4"),
        (np.ones((2, 3)), [np.zeros((0, 3))], DataError, "source_embeddings"),
        (np.full((2, 3), np.nan), [np.ones((2, 3))], NumericalError, "target_embeddings"),
        (np.ones((2, 3)), [], DataError, "found 1 of 0"),
    ],
)
def test_bad_input_is_refused(target, sources, error, told):
    with pytest.raises(error, match=told):
        consistency_diversity(target, sources, size=1)
