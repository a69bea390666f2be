"""Means and intervals over seeds and tasks against other ways to compute them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from taskloom.errors import DataError
from taskloom.runs.claims.measures import (
    Scope,
    accuracies,
    crossed_mean,
    differences,
    index,
    normalised,
    scopes,
)
from taskloom.runs.claims.results import Row

SCOPE = Scope("text", "full", 2)


def row(method, scores=None, *, seed=0, suite="text", experts="full", count=2, failed=None):
    found = None if scores is None else {t: {"value": v, "n": 100} for t, v in scores.items()}
    return Row(suite=suite, experts=experts, seed=seed, count=count, method=method, options={},
               scores=found, failed=failed)  # fmt: skip


def cells(table, suite="text"):
    return {(s, suite, f"t{t}"): value for s, line in enumerate(table) for t, value in enumerate(line)}


# --- cells ------------------------------------------------------------------------------------


def test_normalised_is_by_the_expert_of_the_same_task_and_seed():
    rows = [
        row("expert", {"a": 0.8, "b": 0.5}, seed=0),
        row("expert", {"a": 0.4, "b": 1.0}, seed=1),
        row("ties", {"a": 0.4, "b": 0.5}, seed=0),
        row("ties", {"a": 0.4, "b": 0.5}, seed=1),
    ]
    assert normalised(index(rows), "ties", SCOPE) == {
        (0, "text", "a"): 0.5,
        (0, "text", "b"): 1.0,
        (1, "text", "a"): 1.0,
        (1, "text", "b"): 0.5,
    }
    assert set(normalised(index(rows), "expert", SCOPE).values()) == {1.0}


def test_other_suites_kinds_and_counts_stay_out():
    rows = [
        row("ties", {"a": 0.1}),
        row("ties", {"a": 0.2}, suite="image"),
        row("ties", {"a": 0.3}, experts="lora"),
        row("ties", {"a": 0.4}, count=4),
        row("emr", {"a": 0.5}),
    ]
    assert accuracies(index(rows), "ties", SCOPE) == {(0, "text", "a"): 0.1}
    assert accuracies(index(rows), "ties", Scope("text", "lora", 2)) == {(0, "text", "a"): 0.3}


@pytest.mark.parametrize(
    ("experts", "said"), [([], "is not in the results"), ([row("expert", {"a": 0.0})], "right")]
)
def test_nothing_is_normalised_by_nothing(experts, said):
    with pytest.raises(DataError, match=f"seed 0: the expert of 'a' .*{said}"):
        normalised(index([*experts, row("ties", {"a": 0.4})]), "ties", SCOPE)


def test_failed_rows_have_no_cells_and_are_found():
    rows = [row("knots", failed="no matrices"), row("knots", {"a": 0.5}, seed=1)]
    assert accuracies(index(rows), "knots", SCOPE) == {(1, "text", "a"): 0.5}
    assert [each.failed for each in index(rows)["knots", SCOPE]] == ["no matrices", None]


def test_the_largest_pool_is_the_one_that_counts():
    rows = [row("ties", {}, count=k, suite=s) for s, k in [("text", 2), ("text", 8), ("image", 4)]]
    rows.append(row("ties", {}, experts="lora", count=6))
    assert scopes(rows) == [
        Scope("image", "full", 4),
        Scope("text", "full", 8),
        Scope("text", "lora", 6),
    ]


def test_a_larger_pool_of_fewer_seeds_does_not_count():
    rows = [row("ties", {}, count=8, seed=seed) for seed in range(3)]
    rows += [row("ties", {}, count=12), row("base", {}, count=2), row("base", {}, count=2, seed=1)]
    assert scopes(rows) == [Scope("text", "full", 8)]


def test_differences_are_of_common_cells():
    one, other = {(0, "s", "a"): 0.75, (1, "s", "a"): 0.5}, {(0, "s", "a"): 0.5}
    assert differences(one, other) == {(0, "s", "a"): 0.25}


# --- intervals --------------------------------------------------------------------------------


def test_one_seed_is_students_interval_over_tasks():
    values = [0.1, -0.05, 0.2, 0.07, 0.03]
    found = crossed_mean(cells([values]))
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert (found.seeds, found.tasks, found.n) == ((0,), 5, "1 seed x 5 tasks")


def test_seeds_that_do_not_differ_leave_the_interval_over_tasks():
    """The same numbers from every seed are no more tasks than there are."""
    values = [0.1, -0.05, 0.2, 0.07, 0.03]
    one, three = crossed_mean(cells([values])), crossed_mean(cells([values] * 3))
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))
    assert three.n == "3 seeds x 5 tasks"


def test_worked_by_hand_in_fractions():
    """Two seeds, three tasks, seeds that differ more than the rest: all terms take part."""
    table = [[Fraction(1), Fraction(2), Fraction(6)], [Fraction(4), Fraction(6), Fraction(11)]]
    # means: seeds 3 and 7, tasks 5/2, 4, 17/2, all 5
    tasks = 2 * (Fraction(5, 2) ** 2 + 1 + Fraction(7, 2) ** 2) / 2
    seeds = Fraction(3 * (4 + 4), 1)
    rest = (Fraction(1, 2) ** 2 * 2 + 0 + Fraction(1, 2) ** 2 * 2) / 2
    assert (tasks, seeds, rest) == (Fraction(39, 2), 24, Fraction(1, 2))
    total = tasks + seeds - rest
    freedom = total**2 / (tasks**2 / 2 + seeds**2 + rest**2 / 2)
    half = stats.t.ppf(0.975, float(freedom)) * math.sqrt(total / 6)
    found = crossed_mean(cells([[float(value) for value in line] for line in table]))
    assert (found.value, found.low, found.high) == pytest.approx((5, 5 - half, 5 + half))


@pytest.mark.parametrize(
    ("seeds", "tasks", "rest"), [(0.05, 0.1, 0.05), (0, 0.02, 0.05), (0, 0, 0.05), (0.02, 0.02, 0.02)]
)
def test_the_interval_covers_what_it_should(seeds, tasks, rest):
    """Drawn with effects of seeds and tasks, the mean lies in nine to ten of ten intervals."""
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for _ in range(300):
        table = 0.3 + rng.normal(0, seeds, (3, 1)) + rng.normal(0, tasks, (1, 8))
        found = crossed_mean(cells(table + rng.normal(0, rest, (3, 8))))
        hits += found.low <= 0.3 <= found.high
        widths.append(found.high - found.low)
    assert hits / 300 >= 0.92
    assert max(widths) < 6 * np.median(widths)  # no interval blows up for want of freedom


def test_more_seeds_with_noise_of_their_own_narrow_the_interval():
    rng = np.random.default_rng(1)
    table = rng.normal(0, 0.1, (12, 8))
    one, twelve = crossed_mean(cells(table[:1])), crossed_mean(cells(table))
    assert twelve.high - twelve.low < 0.6 * (one.high - one.low)


def test_equal_numbers_have_an_interval_without_width():
    found = crossed_mean(cells([[0.1] * 7, [0.1] * 7, [0.1] * 7]))
    assert found.low == found.value == found.high


def test_one_task_has_no_interval():
    found = crossed_mean(cells([[0.5], [0.7]]))
    assert (found.value, found.low, found.high) == (pytest.approx(0.6), None, None)


def test_a_seed_that_lacks_a_task_does_not_count():
    table = cells([[0.1, 0.2], [0.3, 0.4]])
    del table[1, "text", "t1"]
    found = crossed_mean(table)
    assert (found.seeds, found.value) == ((0,), pytest.approx(0.15))


def test_suites_side_by_side_use_the_seeds_that_both_have():
    both = cells([[0.1, 0.2], [0.3, 0.4]]) | cells([[0.5, 0.5]], suite="image")
    found = crossed_mean(both)
    assert (found.seeds, found.tasks, found.value) == ((0,), 4, pytest.approx(0.325))


def test_nothing_has_no_mean():
    assert crossed_mean({}) is None
