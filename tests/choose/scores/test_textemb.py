"""TextEmb: cards A11 and B2."""

import numpy as np
import pytest

from taskloom.choose.scores import textemb
from taskloom.errors import DataError, NumericalError

A = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=float)
B = np.array([[1, 1], [2, 1], [1, 2], [2, 3]], dtype=float)
Y = [0, 0, 1, 1]


def test_cosine_of_the_means():
    assert textemb(A, Y, A, B) == pytest.approx(1 - 0.002946, abs=1e-6)
    first, second = A.mean(0), B.mean(0)
    wanted = first @ second / np.sqrt((first @ first) * (second @ second))
    assert textemb(A, Y, A, B) == pytest.approx(wanted, abs=1e-12)


def test_the_source_model_and_scale_do_not_matter():
    rng = np.random.default_rng(0)
    assert textemb(rng.normal(size=(4, 7)), [1, 0, 1, 0], A, 9 * B) == pytest.approx(textemb(A, Y, A, B))


def test_opposite_means():
    assert textemb(A, Y, A, -A) == pytest.approx(-1.0)


def test_refusals():
    with pytest.raises(NumericalError, match="mean of length 0"):
        textemb(A, Y, A - 0.5, B)
    with pytest.raises(DataError, match="columns of the target"):
        textemb(A, Y, A, B[:, :1])
