"""The order of tasting of a greedy soup, restated over all orders of scores."""

import itertools

import numpy as np
import pytest

from taskloom.algebra.greedy import taste_greedily


def restated(names, score, ties):
    order = sorted(names, key=lambda n: (-score((n,)), names.index(n)))
    soup = [order.pop(0)]
    for name in order:
        before, after = score(tuple(soup)), score((*soup, name))
        if after >= before if ties else after > before:
            soup.append(name)
    return tuple(soup)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_the_rule_restated(seed, ties):
    rng = np.random.default_rng(seed)
    names = [f"e{i}" for i in range(4)]
    every = [s for k in range(1, 5) for s in itertools.permutations(names, k)]
    table = {s: float(rng.integers(0, 4)) for s in every}
    asked = []

    def taste(chosen):
        asked.append(chosen)
        return table[chosen]

    found = taste_greedily(names, taste, ties=ties)
    assert found.chosen == restated(names, table.__getitem__, ties)
    assert found.score == table[found.chosen]
    assert len(asked) == 2 * len(names) - 1
    assert len(set(asked)) == len(asked)
    assert [name for name, _, _ in found.tried] == list(found.singles)[1:]
    assert [name for name, _, kept in found.tried if kept] == list(found.chosen[1:])


def test_of_equals_the_first():
    found = taste_greedily(["b", "a"], lambda _: 1.0, ties=False)
    assert (found.chosen, list(found.singles)) == (("b",), ["b", "a"])


def test_one_alone():
    found = taste_greedily(["only"], lambda _: -3.0)
    assert (found.chosen, found.score, found.tried) == (("only",), -3.0, ())
