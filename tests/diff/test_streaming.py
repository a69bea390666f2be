"""The size of a slice changes no number, and bounds what is read at a time."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskloom
from taskloom.choose.diff.sums import slices
from taskloom.store.checkpoint import TensorInfo

from .fixture import Watched, pool


def equal(one, other):
    """Counts and words exactly, sums to their rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if dataclasses.is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return one == other


WHOLE = taskloom.diff(*pool(3))


@settings(max_examples=25)
@given(elements=st.integers(1, 400))
def test_any_slice_gives_the_same_numbers(elements):
    assert equal(taskloom.diff(*pool(3), slice_elements=elements), WHOLE)


SHAPE = st.lists(st.integers(0, 7), max_size=3).map(tuple)


@settings(max_examples=60)
@given(shape=SHAPE, elements=st.integers(1, 60))
def test_slices_cover_every_row_once_and_stay_small(shape, elements):
    info = TensorInfo(shape, torch.float32)
    found = list(slices(info, elements))
    if found == [None]:
        assert not shape or info.numel <= elements
        return
    assert [at for part in found for at in range(part.start, part.stop)] == list(range(shape[0]))
    row = info.numel // shape[0]
    assert all((part.stop - part.start) * row <= max(elements, row) for part in found)


@settings(max_examples=30)
@given(shape=SHAPE, elements=st.integers(1, 20), seed=st.integers(0, 99))
def test_any_shape_in_any_slices(shape, elements, seed):
    torch.manual_seed(seed)
    base = {"w": torch.randn(shape)}
    experts = {k: {"w": base["w"] + torch.randn(shape) * (torch.rand(shape) < 0.6)} for k in "ab"}
    one = taskloom.diff(base, experts, slice_elements=elements)
    assert equal(one, taskloom.diff(base, experts, slice_elements=10**6))


def test_no_read_is_larger_than_a_slice():
    base, experts = pool(3)
    watched = Watched(base), {name: Watched(weights) for name, weights in experts.items()}
    found = taskloom.diff(*watched, ranks=False, slice_elements=40)
    sources = [watched[0], *watched[1].values()]
    assert max(source.largest for source in sources) <= 40
    assert sum(source.read_bytes for source in sources) == found.bytes_read


def test_tall_matrices_are_ranked_in_slices_and_the_others_announced():
    base = {"tall": torch.randn(64, 4), "wide": torch.randn(4, 64)}
    experts = {"a": {n: v + 0.1 * torch.randn_like(v) for n, v in base.items()}}
    tall = {"tall": base["tall"]}, {"a": Watched({"tall": experts["a"]["tall"]})}
    found = taskloom.diff(*tall, slice_elements=16)
    assert tall[1]["a"].largest == 16
    assert found.notes == ()
    assert "1 of 2 matrices are held in memory whole" in taskloom.diff(base, experts).notes[0]


def test_progress_tells_tensors_then_matrices():
    told = []
    base, experts = pool(2)
    taskloom.diff(base, experts, progress=lambda *words: told.append(words))
    first = [words for words in told if words[0] == "compare weights"]
    second = [words for words in told if words[0] == "rank matrices"]
    assert told == first + second
    assert [done for _, done, _ in first] == list(range(1, len(base) + 1))
    assert second[-1][1] == second[-1][2] == sum(v.ndim == 2 for v in base.values())


def test_disk_says_what_memory_says(tmp_path):
    from .fixture import write

    base, experts = pool(2)
    paths = [write(tmp_path / name, weights) for name, weights in experts.items()]
    on_disk = taskloom.diff(write(tmp_path / "base", base), paths)
    in_memory = taskloom.diff(base, experts)
    by_place = {(r.row, r.column): r for r in in_memory.regions}
    assert equal(on_disk.whole, in_memory.whole)
    assert all(equal(r, by_place[r.row, r.column]) for r in on_disk.regions)


@pytest.mark.parametrize("option", ["slice_elements", "exact_rank_up_to"])
def test_options_out_of_range_are_named(option):
    with pytest.raises(taskloom.TaskloomError, match=f"{option} must be 1 or more, found 0"):
        taskloom.diff(*pool(1), **{option: 0})


def test_rows_below_zero_and_no_base_are_refused():
    base, experts = pool(1)
    with pytest.raises(taskloom.TaskloomError, match="rows must be 0 or more"):
        taskloom.diff(base, experts, rows=-1)
    with pytest.raises(taskloom.TaskloomError, match="need the base"):
        taskloom.diff(None, experts)


def test_one_state_dict_instead_of_a_list_is_refused():
    base, experts = pool(1)
    with pytest.raises(taskloom.TaskloomError, match="expected a list of experts"):
        taskloom.diff(base, experts["a"])


def test_gradients_are_left_alone():
    base, experts = pool(2)
    leaves = {n: v.requires_grad_() for n, v in experts["a"].items()}
    assert equal(taskloom.diff(base, [leaves, experts["b"]], names=["a", "b"]).whole,
                 taskloom.diff(base, experts).whole)  # fmt: skip
