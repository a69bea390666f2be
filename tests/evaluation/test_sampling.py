import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples
from taskloom.evaluation.sampling import allocate, stratified

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda c: sum(c) > 0)


def examples(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return Examples([f"t{i}" for i in range(len(labels))], labels)


def keys(some):
    return [f"key {text}" for text in some.inputs]


@given(COUNTS, st.data())
def test_allocation_adds_up_and_is_within_one_of_proportional(counts, data):
    total = data.draw(st.integers(1, sum(counts)))
    shares = allocate(counts, total)
    assert sum(shares) == total
    for share, count in zip(shares, counts, strict=True):
        assert 0 <= share <= count
        assert abs(share - total * count / sum(counts)) <= 1 + 1e-9


@given(COUNTS, st.data())
def test_every_class_that_occurs_gets_one(counts, data):
    present = sum(c > 0 for c in counts)
    total = data.draw(st.integers(present, sum(counts)))
    shares = allocate(counts, total, every_class=True)
    assert sum(shares) == total
    assert all(min(1, c) <= s <= c for s, c in zip(shares, counts, strict=True))


def test_all_when_there_are_not_more():
    some = examples([3, 4])
    assert stratified(some, keys(some), None, seed=0) is some
    assert stratified(some, keys(some), 7, seed=0) is some


def test_the_choice_depends_on_content_and_seed_not_on_order():
    some = examples([30, 30])
    turned = some.take(np.arange(60)[::-1])
    chosen = set(stratified(some, keys(some), 10, seed=0).inputs)
    assert set(stratified(turned, keys(turned), 10, seed=0).inputs) == chosen
    assert set(stratified(some, keys(some), 10, seed=1).inputs) != chosen


def test_old_order_is_kept():
    some = examples([10, 10])
    found = [int(t[1:]) for t in stratified(some, keys(some), 8, seed=0).inputs]
    assert found == sorted(found)


@pytest.mark.parametrize(("most", "every"), [(0, False), (2, True)])
def test_too_few(most, every):
    some = examples([3, 3, 3])
    with pytest.raises(DataError, match=f"{most} examples cannot be drawn"):
        stratified(some, keys(some), most, seed=0, every_class=every)
