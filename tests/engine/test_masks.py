"""Words of 64 comparisons say what comparing one by one says, wherever they start."""

import numpy as np
import pytest

nb = pytest.importorskip("numba")


@pytest.fixture(scope="module")
def words():
    from taskloom.merging.masks import inside, lowest, ones, ranked, reached

    @nb.njit
    def found(keys, values, at, mask, numbers, limit):
        first, last, least, width = numbers
        word = inside(keys, at, mask, least, width)
        return word, ranked(keys, at, mask, first, last, least, width), reached(values, at, limit)

    @nb.njit
    def visited(word):
        places, count = np.zeros(64, np.int64), np.int64(ones(word))
        for j in range(count):
            places[j] = np.int64(lowest(word))
            word &= word - np.uint64(1)
        return places[:count], word

    return found, visited


def bits(word):
    return np.array([int(word) >> i & 1 for i in range(64)], bool)


@pytest.mark.parametrize("at", [0, 1, 7, 36])
@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x7FFFFFFF])
def test_numbers_are_compared_as_they_are_one_by_one(words, at, mask):
    draw = np.random.default_rng(at)
    keys = draw.integers(0, 9, 100, dtype=np.uint32) | draw.choice(np.uint32([0, 1 << 31]), 100)
    values = draw.standard_normal(100, np.float32)
    values[::9], values[1::9], values[2::9] = np.nan, np.inf, -0.0
    seen, held = keys[at : at + 64] & np.uint32(mask), values[at : at + 64]
    for first, last, limit in [(0, 0, 0.0), (3, 5, 0.5), (8, 8, -1.0), (2, 2**32 - 1, np.inf)]:
        least, width = first + 1, last - first
        numbers = tuple(np.uint32(each) for each in (first, last, least, width))
        word, four, other = words[0](keys, values, at, np.uint32(mask), numbers, np.float32(limit))
        between = (seen >= least) & (seen <= last)
        assert np.array_equal(bits(word), between)
        expected = (seen < first, seen == first, seen == last, between)
        assert all(np.array_equal(bits(a), b) for a, b in zip(four, expected, strict=True))
        assert np.array_equal(bits(other), ~(held < limit))


@pytest.mark.parametrize("word", [0, 1, 1 << 63, 0b1011 << 20, (1 << 64) - 1])
def test_bits_are_visited_from_the_lowest(words, word):
    places, left = words[1](np.uint64(word))
    assert list(places) == [i for i in range(64) if word >> i & 1]
    assert left == 0


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
@pytest.mark.parametrize("room", [0, 5, 4096])
def test_what_lies_between_is_gathered_while_there_is_room(n, room):
    from taskloom.merging import blocks

    draw = np.random.default_rng(n)
    keys, mask = draw.integers(0, 40, n, dtype=np.uint32) | np.uint32(1 << 31), np.uint32(0x7FFFFFFF)
    seen = keys & mask
    for first, last in [(10, 20), (0, 39), (7, 7), (39, 50)]:
        into, found = np.zeros(room + 17, np.uint32), np.zeros(6, np.int64)
        most = blocks._gather(keys, mask, n, np.uint32(first), np.uint32(last), into, found)
        assert most == seen.max(initial=0)
        within = seen[(seen > first) & (seen < last)]
        assert list(found[:3]) == [(seen < first).sum(), (seen == first).sum(), len(within)]
        assert found[5] == ((seen == last).sum() if last > first else 0)
        kept = min(room, len(within))
        assert np.array_equal(into[:kept], within[:kept])
