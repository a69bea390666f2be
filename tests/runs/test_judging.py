"""Who wins on given predictions, by the rule restated."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.errors import PlanError
from taskloom.runs.judging import SIMPLER, Judged, judge
from taskloom.runs.targets import gain_interval

KINDS = {
    "base": "base",
    "a": "expert",
    "b": "expert",
    "average": "merge",
    "fine-tune": "fine-tune",
    "fitted": "composition",
    "other": "composition",
}


def judged(right, n=40, task="t"):
    """Predictions of which the first so many of n are right, by model."""
    labels = np.arange(n) % 2
    said = {name: np.where(np.arange(n) < count, labels, 1 - labels) for name, count in right.items()}
    return Judged(task, "accuracy", labels, said)


def rights(**more):
    return {name: more.get(name.replace("-", "_"), 20) for name in KINDS}


@settings(max_examples=5)
@given(st.lists(st.integers(0, 40), min_size=14, max_size=14))
def test_the_rule_on_validation(counts):
    tasks = [
        judged(dict(zip(KINDS, counts[:7], strict=True))),
        judged(dict(zip(KINDS, counts[7:], strict=True)), task="u"),
    ]
    found = judge(tasks, KINDS)
    means = {name: (counts[i] + counts[7 + i]) / 80 for i, name in enumerate(KINDS)}
    highest = max(means.values())
    first = min((n for n in KINDS if means[n] == highest), key=lambda n: SIMPLER.index(KINDS[n]))
    assert found.winner == first
    assert found.kind == KINDS[first]
    rivals = [n for n, kind in KINDS.items() if kind != "composition"]
    assert set(found.refused) == {
        n for n in ("fitted", "other") if means[n] < max(means[r] for r in rivals)
    }
    assert means[found.composition] == max(means["fitted"], means["other"])
    assert means[found.best_expert] == max(means["a"], means["b"])
    for rival in rivals:
        margin = found.margin(rival)
        assert margin.gain == pytest.approx(means[found.composition] - means[rival])
        assert margin.low <= margin.gain <= margin.high
        assert margin.n == 80
    warned = judge(tasks, KINDS, mode="warn")
    assert warned.winner == warned.composition
    assert ("handed over all the same" in warned.reason) == (found.winner != found.composition)


def test_margins_are_paired_by_task_and_in_the_mean():
    tasks = [judged(rights(fitted=30, a=24)), judged(rights(fitted=16, a=20), task="u")]
    found = judge(tasks, KINDS, seed=3)
    by_task = []
    for each in tasks:
        wanted = gain_interval(
            each.labels, each.predictions["fitted"], each.predictions["a"], metric="accuracy", seed=3
        )
        margin = found.margin("a", each.task)
        assert (margin.gain, margin.low, margin.high, margin.n) == (*wanted, 40)
        by_task.append(wanted)
    mean = sum(gain for gain, _, _ in by_task) / 2
    below = sum((gain - low) ** 2 for gain, low, _ in by_task) ** 0.5 / 2
    assert found.margin("a").gain == pytest.approx(mean)
    assert found.margin("a").low == pytest.approx(mean - below)
    assert {m.rival for m in found.margins} == {"base", "a", "b", "average", "fine-tune"}


def test_the_sentence():
    tasks = [judged(rights(fitted=30, a=39))]
    found = judge(tasks, KINDS)
    low, high = found.margin("a").low, found.margin("a").high
    assert found.reason == (
        "the expert a wins: its mean validation score is 0.9750, fitted has 0.7500 (fitted minus a "
        f"-0.2250, 95 % interval {low:+.4f} to {high:+.4f}, n = 40)"
    )
    kinds = {name: kind for name, kind in KINDS.items() if name != "fine-tune"}
    told = judge([judged(rights(fitted=21))], kinds, absent={"fine-tune": "it was not asked for"}).reason
    assert "which may be chance" in told
    assert told.endswith("fine-tune was not tried: it was not asked for")


def test_a_caution_is_told_with_the_reason():
    plain = judge([judged(rights(fitted=21))], KINDS).reason
    told = judge([judged(rights(fitted=21))], KINDS, caution="experts may have seen this").reason
    assert told == f"{plain}; experts may have seen this"


def test_few_labels_keep_the_base_where_the_lead_may_be_luck():
    """Right where the base is wrong three times, and wrong where it is right twice: a lead of 1/40."""
    each = judged(rights())
    here = np.arange(40)
    each.predictions["fitted"][:] = np.where((here > 1) & (here < 23), each.labels, 1 - each.labels)
    assert judge([each], KINDS).winner == "fitted"
    found = judge([each], KINDS, split="cross-validation", folds=5)
    assert found.winner == found.kind == "base"
    difference = np.r_[-np.ones(2), np.zeros(35), np.ones(3)]
    error = np.sqrt(np.mean((difference - difference.mean()) ** 2) / 40)
    assert f"its lead of 0.0250 is within one standard error ({error:.4f})" in found.reason
    clear = judge([judged(rights(fitted=30))], KINDS, split="cross-validation", folds=5)
    assert clear.winner == "fitted"
    assert "its mean score in 5-fold cross-validation is 0.7500" in clear.reason


def restated_f1(labels, said):
    """Macro F1: 2 TP / (2 TP + FP + FN), averaged over the classes that occur or are predicted."""
    found = []
    for c in set(labels) | set(said):
        hit = np.sum((said == c) & (labels == c))
        found.append(2 * hit / (np.sum(said == c) + np.sum(labels == c)))
    return np.mean(found)


def test_a_lead_on_few_labels_is_one_of_the_tasks_own_metric():
    """The base calls all one class: 36 of 40 right, and an F1 that says what that is worth."""
    labels = np.repeat([0, 1], [36, 4])
    said = {name: np.zeros(40, dtype=int) for name in KINDS}
    said["fitted"] = np.where(np.arange(40) < 30, 0, 1)  # finds the four, calls six wrong: 34 right
    found = judge([Judged("t", "macro_f1", labels, said)], KINDS, split="cross-validation", folds=5)
    assert found.winner == "fitted", "fewer right, but a higher F1 by more than its error"
    # on the borderline the sentence names lead and error of the same metric
    said["fitted"] = np.where(np.isin(np.arange(40), [36, 0, 1, 2, 3, 4, 5, 6]), 1, 0)
    found = judge([Judged("t", "macro_f1", labels, said)], KINDS, split="cross-validation", folds=5)
    lead = restated_f1(labels, said["fitted"]) - restated_f1(labels, said["base"])
    rng = np.random.default_rng(5)
    drawn = rng.integers(40, size=(4000, 40))
    error = np.std(
        [
            restated_f1(labels[i], said["fitted"][i]) - restated_f1(labels[i], said["base"][i])
            for i in drawn
        ]
    )
    assert 0 < lead < error
    assert found.winner == "base"
    told = re.search(r"its lead of ([0-9.]+) is within one standard error \(([0-9.]+)\)", found.reason)
    assert float(told[1]) == pytest.approx(lead, abs=1e-4)
    assert float(told[2]) == pytest.approx(error, rel=0.1)
    assert found.values["fitted"] - found.values["base"] == pytest.approx(lead)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"base": "base", "a": "expert"}, "0 compositions"),
        ({"fitted": "composition"}, "0 and 1 compositions"),
        ({**KINDS, "c": "expert"}, "'c' has predicted nothing"),
    ],
)
def test_what_cannot_be_judged(kinds, message):
    with pytest.raises(PlanError, match=message):
        judge([judged(rights())], kinds)
    with pytest.raises(PlanError, match="needs one task or more"):
        judge([], KINDS)
