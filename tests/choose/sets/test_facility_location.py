"""Facility location: golden numbers, lazy against plain greedy, the guarantee against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.sets import facility_location
from taskloom.errors import DataError, NumericalError

CARD = [[1, 0.8, 0.1, 0.2], [0.8, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.7], [0.2, 0.1, 0.7, 1]]


def covered(table, chosen):
    return np.asarray(table)[:, list(chosen)].max(1).sum()


def table_of(seed, k):
    rng = np.random.default_rng(seed)
    half = rng.random((k, k))
    return (half + half.T) / 2


def plain_greedy(table, size):
    chosen = []
    for _ in range(size):
        gains = [-1.0 if j in chosen else covered(table, [*chosen, j]) for j in range(len(table))]
        chosen.append(int(np.argmax(gains)))
    return tuple(chosen)


def test_the_card_s_example():
    found = facility_location(CARD, size=2)
    assert found.chosen == (0, 2)
    assert found.values == (pytest.approx(2.1), pytest.approx(1.4))
    assert sum(found.values) == pytest.approx(3.5)
    assert found.groups == (0, 0, 1, 1)
    assert found.reasons[0] == "taken"
    assert found.reasons[1] == "like {0} (0.800)"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9), data=st.data())
def test_lazy_is_plain_greedy_and_keeps_the_guarantee(seed, k, data):
    size = data.draw(st.integers(1, k))
    table = table_of(seed, k)
    found = facility_location(table, size=size)
    assert found.chosen == plain_greedy(table, size)
    best = max(covered(table, each) for each in combinations(range(k), size))
    reached = covered(table, found.chosen)
    assert sum(found.values) == pytest.approx(reached)
    assert reached >= (1 - 1 / np.e) * best - 1e-12
    told = float(found.note.split("covers more than ")[1].split(",")[0])
    assert told >= best - 1e-4  # what the note says cannot be exceeded is not


def test_gains_never_grow():
    found = facility_location(table_of(3, 30), size=12)
    assert all(a >= b - 1e-12 for a, b in zip(found.values, found.values[1:], strict=False))


def test_looks_at_few_gains(monkeypatch):
    from taskloom.choose.sets import facility_location as function

    module = __import__(function.__module__, fromlist=["_gain"])
    plain, looks = module._gain, []
    monkeypatch.setattr(module, "_gain", lambda *words: looks.append(1) or plain(*words))
    k, size = 60, 10
    module.located(table_of(0, k), size)
    assert len(looks) - k < k * (size - 1) / 2  # k of them are the bound's


def test_equal_gains_go_to_the_first_and_negative_counts_as_nothing():
    assert facility_location(np.eye(3), size=2).chosen == (0, 1)
    table = np.array([[1.0, -5.0], [-5.0, 1.0]])
    found = facility_location(table, size=1)
    assert (found.chosen, found.values) == ((0,), (1.0,))


def test_duplicated_candidates_stand_for_each_other():
    table = np.ones((2, 2))
    table = np.block([[table, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])
    found = facility_location(table, size=2)
    assert (found.chosen, found.groups) == ((0, 2), (0, 0, 1))


@pytest.mark.parametrize(
    ("table", "size", "error", "told"),
    [
        (np.ones((2, 3)), 1, DataError, r"\(K, K\), found \(2, 3\)"),
        ([[1.0, 0.2], [0.4, 1.0]], 1, DataError, "symmetric"),
        ([[1.0, np.nan], [np.nan, 1.0]], 1, NumericalError, "row 0, column 1"),
        (CARD, 5, DataError, "found 5 of 4"),
        (np.zeros((0, 0)), 1, DataError, "two axes"),
    ],
)
def test_bad_input_is_refused(table, size, error, told):
    with pytest.raises(error, match=told):
        facility_location(table, size=size)
