import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.choose import top as module
from taskloom.choose.keyed import digests, gumbel, uniform
from taskloom.choose.top import Top, best_of


@given(
    words=st.lists(st.integers(0, 8), max_size=60),
    k=st.integers(1, 12),
    step=st.integers(1, 9),
    once=st.booleans(),
)
def test_the_best_of_a_stream_are_those_of_the_whole(words, k, step, once):
    scores = np.array([word % 5 for word in words], dtype=np.float64)
    keys = digests([str(word) for word in words])
    top = Top(k, once=once)
    before = module._ROOM
    module._ROOM = 1
    try:
        for at in range(0, len(words), step):
            top.add(
                np.arange(at, min(at + step, len(words))), scores[at : at + step], keys[at : at + step]
            )
        rows = top.best()[0].tolist()
    finally:
        module._ROOM = before
    left, expected = set(), []
    for row in sorted(range(len(words)), key=lambda n: (-scores[n], n)):
        if not (once and words[row] in left):
            left.add(words[row])
            expected.append(row)
    assert rows == expected[:k]


def test_parts_are_put_together_as_one():
    scores, keys = np.array([3.0, 1.0, 2.0, 3.0]), digests(list("abca"))
    parts = []
    for rows in ([0, 2], [1, 3]):
        top = Top(3, once=True)
        top.add(np.array(rows), scores[rows], keys[rows])
        parts.append(top.best())
    assert best_of(parts, 3, once=True)[0].tolist() == [0, 2, 1]
    assert best_of(parts, 3, once=False)[0].tolist() == [0, 3, 2]
    assert best_of([], 3, once=True)[0].tolist() == []


def test_digests_and_draws_are_fixed_for_good():
    assert digests(["", "a"]).tolist() == [13020603013274838756, 3405396810240292928]
    assert uniform(digests(["a"]), 7).tolist() == [0.3130562106126464]
    assert digests(np.array([[1.0, 2.0]]))[0] == digests(np.array([[1.0, 2.0]]))[0]
    keys = digests([str(n) for n in range(5000)])
    assert not np.array_equal(uniform(keys, 0), uniform(keys, 1))
    assert gumbel(keys, 0).std() == pytest.approx(np.pi / 6**0.5, rel=0.05)
