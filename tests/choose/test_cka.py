"""Linear CKA restated, and what it does not see."""

import numpy as np
import pytest

from taskloom.choose.cka import cka_matrix
from taskloom.errors import DataError


def test_restated_and_invariant():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    found = cka_matrix([x, y, 3 * x @ turn + 5])
    centre = np.eye(20) - 1 / 20
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    assert found[0, 1] == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    assert found[0, 2] == pytest.approx(1)
    np.testing.assert_allclose(found[0], found[2], atol=1e-12)


def test_a_model_that_says_nothing_is_like_none():
    x = np.random.default_rng(1).normal(size=(5, 2))
    np.testing.assert_array_equal(cka_matrix([x, np.ones((5, 2))]), np.eye(2))


def test_other_examples_are_refused():
    with pytest.raises(DataError, match="same examples"):
        cka_matrix([np.ones((3, 2)), np.ones((4, 2))])
