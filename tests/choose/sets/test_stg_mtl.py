"""STG-MTL: data maps, memberships of the card, and groups of tasks that are learned alike."""

import numpy as np
import pytest

from taskloom.choose.sets import stg_mtl
from taskloom.choose.sets.stg_mtl import data_maps, memberships
from taskloom.errors import DataError, NumericalError


def curves(seed=0, each=3, epochs=5, n=20):
    """Tasks of two families: each finds other examples easy."""
    rng = np.random.default_rng(seed)
    easy = np.stack([rng.random(n) < 0.5 for _ in range(2)])
    found = []
    for family in easy:
        for _ in range(each):
            rise = np.linspace(0.3, 0.95, epochs)[:, None]
            found.append(np.where(family, rise, 0.2) + 0.03 * rng.random((epochs, n)))
    return np.clip(found, 0, 1)


def test_the_card_s_numbers():
    np.testing.assert_allclose(
        data_maps(np.array([[[0.2], [0.4], [0.9]]])), [[0.5, 0.360555]], atol=1e-6
    )
    np.testing.assert_allclose(
        memberships(np.array([[1, 1.05]]), 1.07), [[0.801231, 0.198769]], atol=1e-6
    )
    np.testing.assert_allclose(
        memberships(np.array([[1, 1.05]]), 2.0), [[0.524376, 0.475624]], atol=1e-6
    )


def test_data_map_restated_by_welford():
    table = curves()
    count, mean, m2 = 0, np.zeros(20), np.zeros(20)
    for epoch in table[1]:
        count += 1
        delta = epoch - mean
        mean = mean + delta / count
        m2 = m2 + delta * (epoch - mean)
    both = np.column_stack([mean, np.sqrt(m2 / (count - 1))]).ravel()
    np.testing.assert_allclose(data_maps(table)[1], both, atol=1e-12)


def test_membership_restated():
    rng = np.random.default_rng(0)
    apart = rng.random((4, 3)) + 0.5
    power = -2 / (1.5 - 1)
    wanted = np.array([[d**power / sum(e**power for e in row) for d in row] for row in apart])
    np.testing.assert_allclose(memberships(apart, 1.5), wanted, atol=1e-12)


def test_distance_zero_belongs_wholly():
    np.testing.assert_array_equal(memberships(np.array([[0.0, 2.0]]), 1.07), [[1.0, 0.0]])
    np.testing.assert_array_equal(memberships(np.array([[0.0, 0.0]]), 1.07), [[0.5, 0.5]])
    far = memberships(np.array([[1e-12, 1e12]]), 1.001)
    assert np.isfinite(far).all()


def test_families_are_found():
    found = stg_mtl(curves(), size=2)
    assert found.groups == (0, 0, 0, 1, 1, 1)
    assert found.membership is not None
    np.testing.assert_allclose(found.membership.sum(1), 1)
    assert (found.membership.argmax(1) == found.groups).all()
    loose = stg_mtl(curves(), size=2, fuzziness=3.0).membership
    assert loose is not None
    assert loose.max() < found.membership.min(where=found.membership > 0.5, initial=1)


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        (np.full((2, 1, 3), 0.5), DataError, "two epochs or more"),
        (np.full((2, 3), 0.5), DataError, "tasks, epochs, examples"),
        (np.full((2, 2, 3), 1.5), DataError, r"in \[0, 1\]"),
        (np.full((2, 2, 3), np.nan), NumericalError, "NaN"),
        (np.full((1, 2, 3), 0.5), DataError, "found 2 of 1"),
    ],
)
def test_bad_input_is_refused(table, error, told):
    with pytest.raises(error, match=told):
        stg_mtl(table, size=2)
