"""BenTo's rule restated, golden numbers of the card, and why all eigenvectors choose nothing."""

import numpy as np
import pytest

from taskloom.choose.sets import bento, facility_location
from taskloom.choose.sets.bento import likeness, spectral
from taskloom.errors import DataError, NumericalError

CARD = np.array([[0.9, 0.5, 0.2], [0.8, 0.6, 0.1], [0.1, 0.2, 0.9]])


def test_the_card_s_example():
    alike = likeness(CARD)
    np.testing.assert_allclose(alike.diagonal(), 1.703673, atol=2e-6)
    assert alike[0, 1] == pytest.approx(1.530467, abs=2e-6)
    assert 1.703673 - alike[0, 2] == pytest.approx(1.104536, abs=2e-6)
    assert 1.703673 - alike[1, 2] == pytest.approx(1.135782, abs=2e-6)
    assert bento(CARD, size=2).chosen == facility_location(alike, size=2).chosen == (0, 2)


def test_restated_with_loops():
    rng = np.random.default_rng(0)
    table = rng.random((7, 5))
    means = [sum(table[:, t]) / 7 for t in range(5)]
    apart = np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            a, b = table[i] - means, table[j] - means
            apart[i, j] = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
    np.testing.assert_allclose(likeness(table), 1.5 * apart.max() - apart, atol=1e-12)


def test_the_laplacian_is_scipy_s():
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian

    alike = likeness(np.random.default_rng(1).random((6, 4)))
    values, vectors = eigh(laplacian(alike, normed=True))
    ours = spectral(alike)
    np.testing.assert_allclose(np.abs((ours * vectors).sum(0)), 1, atol=1e-8)
    assert values[0] == pytest.approx(0, abs=1e-9)


def test_all_eigenvectors_are_equally_unlike():
    """The released script's input: every two rows are sqrt(2) apart, and the choice is the order's."""
    table = np.random.default_rng(2).random((6, 4))
    whole = likeness(spectral(likeness(table)), centre=False)
    off = whole[~np.eye(6, dtype=bool)]
    np.testing.assert_allclose(off, off[0], atol=1e-9)
    groups = [[0.9, 0.1], [0.88, 0.12], [0.1, 0.9], [0.12, 0.88]]
    assert {c // 2 for c in bento(groups, size=2, eigenvectors=2).chosen} == {0, 1}


def test_two_groups_of_tasks_keep_one_of_each():
    rng = np.random.default_rng(3)
    table = np.repeat([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], 5, axis=0) + 0.01 * rng.normal(size=(10, 3))
    found = bento(table, size=2)
    assert {c // 5 for c in found.chosen} == {0, 1}
    assert len({found.groups[k] for k in range(5)}) == len({found.groups[k] for k in range(5, 10)}) == 1


@pytest.mark.parametrize(
    ("table", "options", "error", "told"),
    [
        (np.ones((3, 2)), {}, NumericalError, "transfer differently"),
        (CARD, {"size": 4}, DataError, "found 4 of 3"),
        (CARD, {"size": 1, "eigenvectors": 4}, DataError, "at most 3 eigenvectors"),
        (np.full((2, 2), np.inf), {"size": 1}, NumericalError, "finite transfer"),
    ],
)
def test_bad_input_is_refused(table, options, error, told):
    with pytest.raises(error, match=told):
        bento(table, **{"size": 2, **options})
