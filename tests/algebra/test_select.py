"""Exact order statistics against a sort."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra.core import Stack
from taskloom.algebra.select import Radix, magnitude_bits, selecting, top_mask

from .restated import largest
from .stacks import arrays, floats


def magnitudes(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.abs(values))


def test_ties_go_to_the_lower_index():
    mask = top_mask(torch.tensor([[2.0, 3.0, 2.0, 2.0, 1.0]]), 3)
    assert mask.tolist() == [[True, True, True, False, False]]


def test_all_equal():
    assert top_mask(torch.ones(6), 2).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(("count", "marked"), [(-1, 0), (0, 0), (1, 1), (4, 4), (5, 4)])
def test_count_is_clipped(count, marked):
    assert int(top_mask(torch.tensor([1.0, 2.0, 3.0, 4.0]), count).sum()) == marked


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 4)])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_to_mark(shape, count):
    assert top_mask(torch.zeros(shape), count).shape == shape


@given(st.lists(floats, min_size=1, max_size=40), st.integers(0, 41))
def test_marks_what_a_stable_sort_marks(values, count):
    row = np.array(values, dtype=np.float32)
    assert np.array_equal(top_mask(magnitudes(row), count).numpy(), largest(row, count))


@given(arrays(6, 5), st.integers(0, 6))
def test_each_row_is_ranked_alone(values, count):
    mask = top_mask(magnitudes(values).reshape(2, 3, 5), count).numpy().reshape(6, 5)
    assert np.array_equal(mask, np.stack([largest(row, count) for row in values]))


@given(st.lists(floats, min_size=2, max_size=50))
def test_bits_order_as_magnitudes_do(values):
    row = np.array(values, dtype=np.float32)
    bits = magnitude_bits(torch.from_numpy(row)).numpy()
    assert np.array_equal(bits[:, None] < bits, np.abs(row)[:, None] < np.abs(row))


def limits(pieces: list[np.ndarray], ranks: list[int]) -> np.ndarray:
    """The ``ranks``-th smallest magnitudes of K experts, seen piece by piece."""
    first = Radix.first(len(ranks))
    for piece in pieces:
        first.see(torch.from_numpy(piece))
    second = first.second(ranks)
    for piece in pieces:
        second.see(torch.from_numpy(piece))
    return second.limits()


@given(arrays(3, 24), st.data())
def test_radix_finds_what_a_sort_finds_in_any_order_and_slicing(values, data):
    ranks = data.draw(st.lists(st.integers(1, 24), min_size=3, max_size=3))
    cuts = sorted(data.draw(st.sets(st.integers(1, 23), max_size=6)))
    pieces = data.draw(st.permutations(np.split(values, cuts, axis=1)))
    expected = np.array(
        [np.sort(np.abs(row))[rank - 1] for row, rank in zip(values, ranks, strict=True)]
    )
    assert np.array_equal(limits(pieces, ranks).view(np.float32), expected)


def test_radix_over_tensors_of_any_shape():
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4, 5), (2, 7), (2,), (2, 0, 3), (2, 1, 1)]
    pieces = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    flat = np.concatenate([p.reshape(2, -1) for p in pieces], axis=1)
    for rank in (1, 2, 34, flat.shape[1]):
        found = limits(pieces, [rank, rank]).view(np.float32)
        assert np.array_equal(found, np.sort(np.abs(flat), axis=1)[:, rank - 1])


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 0.1, 1.0, 3.4e38])
def test_radix_of_one_number(value):
    found = limits([np.array([[value]], dtype=np.float32)], [1])
    assert found.view(np.float32)[0] == np.float32(value)


def test_radix_tells_numbers_apart_that_differ_in_the_last_bit():
    one = np.float32(0.1)
    values = np.array([[one, np.nextafter(one, np.float32(1)), np.nextafter(one, np.float32(0))]])
    for rank, expected in enumerate(np.sort(values[0]), start=1):
        assert limits([values], [rank]).view(np.float32)[0] == expected


def test_a_rank_beyond_all_gives_a_limit_that_nothing_reaches():
    values = np.array([[1.0, 3.4e38], [1.0, 2.0]], dtype=np.float32)
    found = limits([values], [3, 2])
    assert (magnitude_bits(torch.from_numpy(values)).numpy()[0] < found[0]).all()
    assert found[1:].view(np.float32)[0] == 2.0


def test_each_expert_has_its_own_rank():
    values = np.tile(np.arange(1, 101, dtype=np.float32), (3, 1))
    assert limits([values], [1, 50, 100]).view(np.float32).tolist() == [1.0, 50.0, 100.0]


def test_totals_count_every_entry():
    radix = Radix.first(2).see(torch.zeros(2, 3, 4)).see(torch.ones(2, 5))
    assert radix.totals.tolist() == [17, 17]


def test_limits_before_the_second_round_are_refused():
    with pytest.raises(ValueError, match="after round 1"):
        Radix.first(1).see(torch.ones(1, 2)).limits()


def test_float64_is_ranked_as_rounded_to_float32():
    near = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert len(set(magnitude_bits(near).tolist())) == 1


def test_ties_in_some_rows_only():
    rows = np.float32([[1, 2, 3, 4], [2, 2, 2, 2], [0, 0, 1, 1]])
    mask = top_mask(magnitudes(rows), 3)
    assert np.array_equal(mask.numpy(), np.stack([largest(row, 3) for row in rows]))


@given(arrays(2, 40), st.integers(0, 41), st.data())
def test_a_selection_marks_a_tensor_slice_by_slice(values, count, data):
    """Exactly the ``count`` largest, lower index first, whatever the slices and however counted."""
    coarse = np.round(np.clip(values, -9, 9) * 2) / 2  # many ties
    cuts = sorted(data.draw(st.sets(st.integers(1, 39), max_size=5)))
    pieces = [torch.from_numpy(piece) for piece in np.split(coarse, cuts, axis=1)]
    measure = selecting(lambda n: count, ties=True)
    acc = None
    for round_ in range(measure.rounds):
        started = measure.start(round_, acc)
        parts = [measure.see(copy.deepcopy(started), stack(piece)) for piece in pieces]
        acc = functools.reduce(measure.join, parts)
    selection = measure.done(acc)
    found = torch.cat([selection.mark(piece) for piece in pieces], 1)
    assert torch.equal(found, top_mask(torch.from_numpy(np.abs(coarse)), count))


def stack(values):
    return Stack("w", values, ("a", "b"), 0, values.shape[1])
