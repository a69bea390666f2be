"""The setting that is chosen is the best one, however few pairs were looked at."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.errors import DataError
from taskloom.runs.claims.choose import best_setting, check_experts, normalised_mean


def plainly(settings, experts, table):
    """The rule, restated: the highest mean of ratios; of equal ones, the smallest setting."""
    means = {s: np.mean([table[s, t] / experts[t] for t in experts]) for s in settings}
    return min(settings, key=lambda s: (-means[s], s))


@pytest.mark.parametrize("seed", range(60))
def test_it_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    settings = [float(s) for s in rng.permutation([0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5])]
    experts = {f"t{i}": float(rng.integers(10, 21)) / 20 for i in range(rng.integers(1, 7))}
    levels = rng.integers(0, 21, size=(len(settings), len(experts))) / 20
    table = {(s, t): levels[i, j] for i, s in enumerate(settings) for j, t in enumerate(experts)}
    asked = []

    def accuracy(setting, task):
        asked.append((setting, task))
        return float(table[setting, task])

    assert best_setting(settings, experts, accuracy) == plainly(settings, experts, table)
    assert len(asked) == len(set(asked)), "no pair is measured twice"


def test_of_equal_settings_the_smallest_wins():
    assert best_setting([1.5, 0.2, 0.7], {"a": 0.5, "b": 0.25}, lambda *_: 0.4) == 0.2


def test_hopeless_settings_are_left_alone():
    asked = []

    def accuracy(setting, task):
        asked.append((setting, task))
        return 0.95 if setting == 0.3 else 0.1

    experts = {f"t{i}": 0.95 for i in range(8)}
    assert best_setting([0.1, 0.3, 1.0], experts, accuracy) == 0.3
    assert len(asked) == 10


def test_the_mean_is_over_tasks_of_ratios():
    assert normalised_mean({"a": 0.3, "b": 0.9, "other": 0.0}, {"a": 0.6, "b": 0.6}) == pytest.approx(
        1.0
    )


def test_an_expert_that_knows_nothing_cannot_be_a_yardstick():
    check_experts({"a": 0.1})
    with pytest.raises(DataError, match="the expert of 'b' gets no validation example"):
        check_experts({"a": 0.1, "b": 0.0})
