"""Successive halving's rungs, the time there is, the bound and the yardstick without labels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import PlanError
from taskloom.runs.auto.bound import most_lost, regret_bound, share_ends
from taskloom.runs.auto.ground import halved, nested
from taskloom.runs.auto.ladder import kept, ladder, most_halvings
from taskloom.runs.auto.making import shared
from taskloom.runs.auto.purse import EXTRA, Purse
from taskloom.runs.auto.surety import surety, surety_interval, surety_lead
from taskloom.runs.workspace import Workspace


class Ticks:
    """A clock that moves by a second when it is looked at."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_the_rungs_of_hyperbands_table():
    """Li et al. 2018, table 1: R = 81, eta = 3, bracket s = 4 and s = 3 (n = 81 and 27 there)."""
    for start, halvings, counts in ((81, 4, [81, 27, 9, 3, 1]), (27, 3, [27, 9, 3, 1])):
        rungs = ladder(start, halvings, eta=3)
        assert [rung.count for rung in rungs] == counts
        resources = [3.0**i for i in range(4 - halvings, 5)]
        assert [81 * rung.share for rung in rungs] == pytest.approx(resources)


@given(st.integers(1, 200), st.floats(0.001, 1.0), st.integers(2, 5))
def test_there_are_as_many_halvings_as_members_and_examples_allow(count, least, eta):
    halvings = most_halvings(count, least, eta=eta)
    rungs = ladder(count, halvings, eta=eta)
    assert rungs[0].share >= least * (1 - 1e-9)
    assert rungs[-1].share == 1.0
    assert eta**halvings <= count
    more = halvings + 1
    assert eta**more > count or least * eta**more > 1
    for one, two in itertools.pairwise(rungs):
        assert two.count == max(1, count // eta**two.number)
        assert kept(one.count, rungs, one.number) == two.count


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (3, 10), (10, 10), (17, 60)])
def test_ends_of_a_share_are_where_the_binomial_law_says(wins, n):
    """Clopper-Pearson by its definition: sums of binomial probabilities."""

    def at_most(k: int, p: float) -> float:
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    low, high = share_ends(wins, n, 0.025)
    assert low <= wins / n <= high
    if wins < n:
        assert at_most(wins, high) == pytest.approx(0.025, abs=1e-9)
    if wins:
        assert 1 - at_most(wins - 1, low) == pytest.approx(0.025, abs=1e-9)


def test_a_bound_on_the_difference_holds_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        first, second = rng.random(40) < 0.6, rng.random(40) < 0.75
        missed += most_lost(first, second, pairs=1) < 0.15
    assert missed <= 300 * 0.05


def test_the_regret_bound_is_that_of_the_worst_pair_where_both_were_last():
    right = np.array([True] * 20)
    wrong = ~right
    first = {"a": right, "b": wrong, "c": right}
    second = {"a": np.array([True] * 40), "c": np.array([True] * 30 + [False] * 10)}
    pairs = 3 * 2 * 2
    wanted = max(most_lost(second["a"], second["c"], pairs=pairs), most_lost(right, wrong, pairs=pairs))
    assert regret_bound("a", [first, second]) == pytest.approx(wanted)
    looser = max(
        most_lost(second["a"], second["c"], pairs=pairs, level=0.5),
        most_lost(right, wrong, pairs=pairs, level=0.5),
    )
    assert regret_bound("a", [first, second], level=0.5) == pytest.approx(looser)
    assert looser < wanted
    assert regret_bound("a", [{"a": right}]) is None
    assert regret_bound("b", [first]) > 0.5


def test_surety_is_the_mutual_information():
    rng = np.random.default_rng(1)
    chances = rng.dirichlet([1, 1, 1], 50)
    mean = chances.mean(0)
    entropy = -sum(m * math.log(m) for m in mean)
    within = np.mean([-sum(p * math.log(p) for p in row) for row in chances])
    assert surety(chances) == pytest.approx((entropy - within) / math.log(3))
    low, high = surety_interval(chances)
    assert low < surety(chances) < high
    # the percentile bootstrap of a biased statistic lies a little above it


def test_one_class_for_everything_is_no_surety():
    collapsed = np.tile([1.0, 0.0], (30, 1))
    unsure = np.full((30, 2), 0.5)
    sure = np.eye(2)[np.arange(30) % 2]
    assert surety(collapsed) == pytest.approx(0.0, abs=1e-12)
    assert surety(unsure) == pytest.approx(0.0, abs=1e-12)
    assert surety(sure) == pytest.approx(1.0)
    lead, low, _ = surety_lead(sure, collapsed)
    assert lead == pytest.approx(1.0)
    assert low > 0


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(0, 3))
def test_rows_nest_and_halves_share_classes(labels, seed):
    labels = np.array(labels)
    rows = np.arange(len(labels))
    order = nested(labels, rows, seed)
    assert sorted(order) == list(rows)
    classes = len(np.unique(labels))
    assert len(np.unique(labels[order[:classes]])) == classes
    for count in range(classes, len(order)):
        for label in np.unique(labels):
            wanted = count * np.mean(labels == label)
            assert abs(np.sum(labels[order[:count]] == label) - wanted) <= classes + 1
    one, two = halved(labels, rows, seed)
    assert sorted([*one, *two]) == list(rows)
    assert abs(len(one) - len(two)) <= 1
    for label in np.unique(labels):
        assert abs(np.sum(labels[one] == label) - np.sum(labels[two] == label)) <= 1


def test_what_was_paid_is_not_paid_twice(tmp_path):
    done = []

    def work() -> dict[str, object]:
        done.append(1)
        return {"value": 3, EXTRA: 5.0}

    first = Purse(1.0, Workspace(tmp_path), "x", clock=Ticks())
    assert first.pay("step", work) == {"value": 3, "seconds": 6.0}
    again = Purse(1.0, Workspace(tmp_path), "x", clock=Ticks())
    assert again.pay("step", work)["value"] == 3
    assert (len(done), first.spent, again.spent, again.left) == (1, 6.0, 6.0, 54.0)
    other = Purse(1.0, Workspace(tmp_path), "y", clock=Ticks())
    other.pay("step", work)
    assert len(done) == 2


def test_choices_belong_to_the_budget_and_steps_do_not(tmp_path):
    first = Purse(1.0, Workspace(tmp_path), "x")
    assert first.choose("who", lambda: ["a"]) == ["a"]
    assert Purse(1.0, Workspace(tmp_path), "x").choose("who", lambda: ["b"]) == ["a"]
    assert Purse(2.0, Workspace(tmp_path), "x").choose("who", lambda: ["b"]) == ["b"]


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_are_a_number_above_0(tmp_path, minutes):
    with pytest.raises(PlanError, match="minutes"):
        Purse(minutes, Workspace(tmp_path), "x")


def test_a_fit_takes_its_share_of_the_steps():
    for count, share in itertools.product((3, 20, 60), (0.01, 1 / 9, 1 / 3, 1.0)):
        assert shared(count, share) == max(min(5, count), round(count * share))
