"""LEEP: card A2."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.scores import leep
from taskloom.errors import DataError, NumericalError

THETA = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
Y = [0, 0, 1, 1]


def of(labels, theta, **options):
    return leep(np.arange(len(labels), dtype=float)[:, None], labels, theta, **options)


def loops(labels, theta):
    n, sources = len(labels), len(theta[0])
    total = 0.0
    for i in range(n):
        found = 0.0
        for z in range(sources):
            marginal = sum(theta[j][z] for j in range(n))
            joint = sum(theta[j][z] for j in range(n) if labels[j] == labels[i])
            found += joint / marginal * theta[i][z] if marginal else 0.0
        total += log(found)
    return total / n


def test_card_a2():
    assert of(Y, THETA) == pytest.approx(-0.422034, abs=1e-6)
    per_example = [0.709593, 0.606425, 0.599910, 0.716109]
    assert of(Y, THETA) == pytest.approx(np.log(per_example).mean(), abs=1e-5)


def test_without_the_logarithm_as_sfda_s_release():
    assert of(Y, THETA, logarithm=False) == pytest.approx(0.658009, abs=1e-6)


def test_a_perfect_source():
    assert of(Y, np.eye(2)[Y]) == 0.0
    assert of(Y, np.eye(2)[Y], logarithm=False) == 1.0


def test_a_source_that_says_nothing_gives_the_entropy_of_the_labels():
    theta = np.full((4, 5), 0.2)
    assert of([0, 0, 0, 1], theta) == pytest.approx(0.75 * log(0.75) + 0.25 * log(0.25))


def test_a_source_class_of_probability_zero_is_left_out():
    padded = np.hstack([THETA, np.zeros((4, 3))])
    assert of(Y, padded) == of(Y, THETA)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sources=st.integers(1, 6))
def test_equals_the_loops(seed, sources):
    rng = np.random.default_rng(seed)
    labels = np.arange(12) % 3
    theta = rng.dirichlet(np.full(sources, 0.3), size=12)
    value = of(labels, theta)
    assert value == pytest.approx(loops(labels.tolist(), theta.tolist()), abs=1e-10)
    order = rng.permutation(sources)
    assert of(labels, theta[:, order]) == pytest.approx(value, abs=1e-12)
    assert value <= 1e-12


@pytest.mark.parametrize(
    ("theta", "said"),
    [
        (np.array(THETA) * 10, r"found the sum 10 in row 0\. Pass the softmax"),
        ([[1.5, -0.5]] * 4, "found the sum 1 in row 0"),
        (THETA[:3], r"expected source_probabilities \(4, S\), found \(3, 3\)"),
        ([0.5] * 4, r"found \(4,\)"),
        ([[np.nan, 0.5]] * 4, "found the sum nan"),
    ],
)
def test_rows_that_are_no_probabilities(theta, said):
    with pytest.raises(DataError, match=said):
        of(Y, theta)


def test_features_are_checked_all_the_same():
    with pytest.raises(NumericalError, match="the same row"):
        leep(np.ones((4, 2)), Y, THETA)
