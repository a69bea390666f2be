"""Soft prompts compared: the card's numbers, and loops over tokens."""

import numpy as np
import pytest

from taskloom.choose.prompts import (
    activation_overlap,
    mean_cosine,
    task_cosine,
    token_cosine,
    token_distance,
)
from taskloom.errors import DataError, NumericalError

SWAPPED = [[0.0, 1.0], [1.0, 0.0]]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_card_s_numbers():
    assert mean_cosine(np.eye(2), SWAPPED) == pytest.approx(1)
    assert token_cosine(np.eye(2), SWAPPED) == 0.5
    first, second = [[1, -0.2, 0.3]], [[0.5, 0.4, -0.1]]
    assert activation_overlap(first, second) == pytest.approx(0.5)
    assert activation_overlap(first, second, binary=False) == pytest.approx(0.566110, abs=1e-6)


def test_restated_token_by_token():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 6)), rng.normal(size=(3, 6))
    pairs = [(x, y) for x in a for y in b]
    assert token_cosine(a, b) == pytest.approx(np.mean([cosine(x, y) for x, y in pairs]))
    apart = np.mean([np.linalg.norm(x - y) for x, y in pairs])
    assert token_distance(a, b) == pytest.approx(1 / (1 + apart))
    assert mean_cosine(a, b) == pytest.approx(cosine(a.mean(0), b.mean(0)))
    assert task_cosine(a, b) == pytest.approx(cosine(a.mean(0), b.mean(0)))


def test_layers_are_chosen():
    first, second = np.array([[1, -1], [1, 1.0]]), np.array([[-1, 1], [1, 1.0]])
    assert activation_overlap(first, second, layers=[-1]) == pytest.approx(1)
    assert activation_overlap(first, second, layers=[0]) == 0
    assert activation_overlap(first, second) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: mean_cosine(np.ones((2, 3)), np.ones((2, 4))), DataError, "one width"),
        (lambda: mean_cosine([[1.0, -1.0], [-1.0, 1.0]], np.eye(2)), NumericalError, "vector of zeros"),
        (lambda: token_cosine([[0.0, 0.0]], np.eye(2)), NumericalError, "zeros in row 0"),
        (lambda: token_distance(np.full((1, 2), np.nan), np.eye(2)), NumericalError, "finite tokens"),
        (lambda: activation_overlap(np.ones((2, 3)), np.ones((1, 3))), DataError, "same layers"),
        (lambda: activation_overlap(-np.ones((1, 3)), np.ones((1, 3))), NumericalError, "zeros"),
        (
            lambda: activation_overlap(np.ones((1, 3)), np.ones((1, 3)), layers=[1]),
            DataError,
            "layers of",
        ),
        (
            lambda: activation_overlap(np.ones((1, 3)), np.ones((1, 3)), layers=[]),
            DataError,
            "layers of",
        ),
    ],
)
def test_bad_input_is_refused(call, error, told):
    with pytest.raises(error, match=told):
        call()
