"""Sums that are the same for any order and slicing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra import exact
from taskloom.algebra.exact import ExactSums
from taskloom.errors import NumericalError

sizes = st.one_of(
    st.floats(0, 1e300),
    st.floats(0, 1),
    st.sampled_from([0.0, 5e-324, 1e-300, 1.0, 2.0**26, 2.0**26 - 1, 1e150, 0.1]),
)


@given(st.lists(sizes, min_size=1, max_size=40), st.data())
def test_order_and_slices_do_not_matter(numbers, data):
    row = torch.tensor([numbers], dtype=torch.float64)
    whole = ExactSums.of(row).values()
    order = data.draw(st.permutations(range(len(numbers))))
    shuffled = row[:, list(order)]
    cut = data.draw(st.integers(0, len(numbers)))
    parts = ExactSums.of(shuffled[:, :cut]) + ExactSums.of(shuffled[:, cut:])
    assert parts.values().tolist() == whole.tolist()


@given(st.lists(sizes, min_size=1, max_size=40))
def test_the_sum_is_that_of_fsum(numbers):
    (found,) = ExactSums.of(torch.tensor([numbers], dtype=torch.float64)).values()
    assert found == pytest.approx(math.fsum(numbers), rel=40 * 2.0**-52, abs=5e-324)


def test_a_million_numbers_in_small_chunks(monkeypatch):
    numbers = np.random.default_rng(0).standard_normal(100_000) ** 2
    whole = ExactSums.of(torch.from_numpy(numbers)[None]).values()
    monkeypatch.setattr(exact, "_CHUNK", 777)
    assert ExactSums.of(torch.from_numpy(numbers)[None]).values() == whole
    assert whole[0] == pytest.approx(math.fsum(numbers), rel=1e-14)


def test_rows_are_summed_apart():
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1e30, 1e30]])
    assert ExactSums.of(rows).values() == pytest.approx([3.0, 0.0, 2e30])
    assert ExactSums.of(rows[:, :0]).values().tolist() == [0.0, 0.0, 0.0]


def test_adding_leaves_both_as_they_are():
    one = ExactSums.of(torch.tensor([[1.0]]))
    _ = one + ExactSums.of(torch.tensor([[2.0]]))
    assert one.values().tolist() == [1.0]


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_not_finite_is_refused(number):
    with pytest.raises(NumericalError, match="beyond the range of float64"):
        ExactSums.of(torch.tensor([[1.0, number]]))
