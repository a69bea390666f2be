"""What may be handed over, intervals of means, and the sentences that say it."""

from __future__ import annotations

import math
from types import SimpleNamespace as Thing

import numpy as np
import pytest

from taskloom.evaluation.interval import wilson
from taskloom.runs import results
from taskloom.runs.candidates import Candidate
from taskloom.runs.heads import cross_validated, fold_of
from taskloom.runs.result import TargetRecord
from taskloom.runs.targets import gain_interval, sentence
from taskloom.runs.verdict import decide, mean_interval


def candidate(name: str) -> Candidate:
    kind = "base" if name == "base" else "expert" if name.startswith("expert:") else "merge"
    return Candidate(name, kind, name.title(), name, dict)


def verdict(mode="strict", **values):
    named = {name.replace("expert_", "expert:"): value for name, value in values.items()}
    models = [candidate(name) for name in named]
    return decide("pool", models, named, yardstick="mean validation score", mode=mode)


def test_strict_refuses_a_merge_that_loses():
    found = verdict(base=0.5, expert_a=0.7, ties=0.65, average=0.6)
    assert found.winner == found.best_single == "expert:a"
    assert found.refused == ["ties", "average"]
    assert (found.best_merge, found.best_merge_value) == ("ties", 0.65)
    assert "not handed over" in found.reason


def test_warn_hands_it_over_and_says_so():
    found = verdict("warn", base=0.5, expert_a=0.7, ties=0.65)
    assert found.winner == "ties"
    assert found.refused == ["ties"]
    assert "guard: warn" in found.reason


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_a_merge_that_wins_is_handed_over(mode):
    found = verdict(mode, base=0.5, expert_a=0.7, ties=0.75, average=0.6)
    assert (found.winner, found.refused) == ("ties", ["average"])
    assert "guard: warn" not in found.reason


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_of_equals_the_simplest_wins(mode):
    assert verdict(mode, base=0.7, expert_a=0.7, ties=0.7).winner == "base"
    assert verdict(mode, base=0.5, expert_a=0.7, ties=0.7).winner == "expert:a"
    assert verdict(mode, base=0.5, expert_a=0.4).winner == "base"


# --- the interval of a mean -------------------------------------------------------------------


def test_one_value_keeps_its_own_interval():
    low, high = wilson(45, 50)
    assert mean_interval([(0.9, low, high)]) == pytest.approx((low, high))


def test_a_perfect_score_is_not_a_certain_one():
    low, high = mean_interval([(1.0, *wilson(20, 20)), (1.0, *wilson(20, 20))])
    assert 0.85 < low < 1
    assert high == 1


def test_the_interval_of_a_mean_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, sizes = np.array([0.6, 0.8, 0.95]), np.array([40, 60, 80])
    hits = 0
    for _ in range(2000):
        counts = rng.binomial(sizes, truth)
        each = [(k / n, *wilson(int(k), int(n))) for k, n in zip(counts, sizes, strict=True)]
        low, high = mean_interval(each)
        hits += low <= truth.mean() <= high
    assert 0.93 < hits / 2000 < 0.98


def test_equal_tasks_shrink_the_interval_with_the_root_of_their_number():
    one = mean_interval([(0.5, 0.4, 0.6)])
    four = mean_interval([(0.5, 0.4, 0.6)] * 4)
    assert (one[1] - one[0]) / (four[1] - four[0]) == pytest.approx(math.sqrt(4))


# --- cross-validation -------------------------------------------------------------------------


def test_folds_are_level_and_spread_every_class():
    labels = np.array([0] * 11 + [1] * 4 + [2] * 2)
    fold = fold_of(labels, 5, 3)
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1
    assert len(set(fold[labels == 1])) == 4
    assert len(set(fold[labels == 2])) == 2, "the rare class is seen in training whatever is held out"
    np.testing.assert_array_equal(fold, fold_of(labels, 5, 3))
    assert (fold != fold_of(labels, 5, 4)).any()


def test_no_example_is_predicted_by_a_head_that_saw_it():
    """Labels that are noise cannot be predicted, however many features there are to learn them by."""
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(80, 200)), rng.permutation(np.arange(80) % 2)
    held = cross_validated(features, labels, ("a", "b"), folds=5, task="t", seed=0)
    assert 0.3 < (held == labels).mean() < 0.7


def test_a_fold_with_one_class_left_predicts_it():
    labels = np.array([0, 0, 0, 1])
    held = cross_validated(np.eye(4), labels, ("a", "b"), folds=5, task="t", seed=0)
    assert held[3] == 0


# --- sentences --------------------------------------------------------------------------------


def target(**changes) -> TargetRecord:
    given = {
        "target": "quotes",
        "n_labels": 64,
        "reuse": "ties",
        "value": 0.8,
        "base_value": 0.769,
        "gain": 0.031,
        "gain_low": 0.01,
        "gain_high": 0.052,
        "n": 500,
        "best_in_hindsight": "ties",
        "best_in_hindsight_value": 0.8,
        "handover": "handover/quotes",
        "sentence": "",
    }
    return TargetRecord(**{**given, **changes})


@pytest.mark.parametrize(
    ("better", "worse", "gains"),
    [(4, 0, False), (5, 0, False), (6, 0, True), (9, 1, True), (8, 2, False), (60, 20, True)],
)
def test_a_handful_of_examples_is_no_gain(better, worse, gains):
    """Two-sided sign test by hand: 2 / 2^5 > 0.05 > 2 / 2^6; 9 of 10: 0.021; 8 of 10: 0.109."""
    labels = np.zeros(500, dtype=np.int64)
    base, chosen = labels.copy(), labels.copy()
    base[:better], chosen[better : better + worse] = 1, 1
    gain, low, high = gain_interval(labels, chosen, base, metric="accuracy", seed=0)
    assert gain == pytest.approx((better - worse) / 500)
    assert (low > 0) == gains
    assert low <= gain <= high
    back = gain_interval(labels, base, chosen, metric="accuracy", seed=0)
    assert (back[2] < 0) == gains


def test_equal_predictions_have_no_gain():
    same = np.arange(10) % 2
    assert gain_interval(same, same, same, metric="accuracy", seed=0) == (0, 0, 0)


def test_a_gain_is_told_with_its_interval():
    assert sentence(target(), "TIES", "accuracy") == (
        "For quotes reuse the merge TIES: with 64 labels it gains 3.1 points over the base "
        "(95 % interval +1.0 to +5.2, n = 500)."
    )


def test_an_expert_is_named_as_one():
    told = sentence(target(reuse="expert:trec6"), "Expert trec6", "accuracy")
    assert told.startswith("For quotes reuse expert trec6: ")


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.05), (0.0, 0.05), (-0.05, 0.0), (0.0, 0.0)])
def test_an_interval_that_touches_zero_is_no_gain(low, high):
    told = sentence(target(gain_low=low, gain_high=high), "TIES", "accuracy")
    assert "may be chance" in told
    assert "it gains" not in told


def test_a_loss_is_called_one():
    told = sentence(target(gain=-0.04, gain_low=-0.06, gain_high=-0.01), "TIES", "accuracy")
    assert "it loses 4.0 points against the base, a transfer that hurts" in told


def test_keeping_the_base_is_said():
    told = sentence(target(reuse="base"), "Base", "macro_f1")
    assert told.startswith(
        "For quotes keep the base: with 64 labels nothing in the pool did clearly better"
    )
    assert "macro_f1 76.9 on 500 test examples" in told


TITLES = {"base": "Base", "expert:a": "Expert a", "ties": "TIES"}


@pytest.mark.parametrize(
    ("mode", "values", "told"),
    [
        ("strict", {"ties": 0.8}, "TIES is handed over: mean validation score 80.0 against 50.0"),
        ("strict", {"ties": 0.6}, "Expert a is handed over: mean validation score 70.0 against 50.0"),
        ("warn", {"ties": 0.6}, "60.0 against 70.0 for Expert a, to which it loses."),
        ("strict", {"expert_a": 0.4, "ties": 0.3}, "The base is handed over: no expert and no merge"),
    ],
)
def test_the_pool_sentence(mode, values, told):
    record = verdict(mode, **{"base": 0.5, "expert_a": 0.7, **values})
    assert told in results.pool_sentence(record, TITLES)


def test_warnings_name_what_was_handed_over_against_advice_and_what_hurts():
    models = [Thing(name=name, title=title) for name, title in TITLES.items()]
    guards = [verdict("warn", base=0.5, expert_a=0.7, ties=0.65)]
    hurt = target(gain=-0.04, gain_low=-0.06, gain_high=-0.01)
    found = results.warnings(Thing(models=models, guards=guards, targets=[hurt]))
    assert "loses to Expert a" in found[0]
    assert "quotes: TIES was chosen on 64 labels and is worse than the base on test" in found[1]
    assert results.warnings(Thing(models=models, guards=guards[:0], targets=[target()])) == []


def test_on_few_labels_the_base_stays_within_one_standard_error():
    """The best of many by a hair is not handed over; a clear lead is."""
    base = np.array([True] * 60 + [False] * 40)
    clear = np.array([True] * 80 + [False] * 20)  # 20 more right, 20 of 100 differ: an error of 4
    hair = base.copy()
    hair[:9], hair[60:70] = False, True  # 1 more right, 19 differ: an error of 4.4
    models = [candidate("base"), candidate("expert:a")]

    def found(right, mode="strict"):
        values = {"base": 0.60, "expert:a": float(right.mean())}
        rights = {"base": base, "expert:a": right}
        return decide("t", models, values, yardstick="accuracy", mode=mode, right=rights)

    assert found(clear).winner == "expert:a"
    assert found(hair).winner == "base"
    assert "expert:a" in found(hair).reason
    assert "within one standard error (4.4)" in found(hair).reason
    assert found(hair, "warn").winner == "expert:a"


def test_repeats_vote_by_mean_probability():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 3)) + labels[:, None]
    once = [
        cross_validated(features, labels, ("a", "b"), folds=5, task="t", seed=seed) for seed in range(3)
    ]
    voted = cross_validated(features, labels, ("a", "b"), folds=5, task="t", seed=0, repeats=3)
    agreed = (once[0] == once[1]) & (once[1] == once[2])
    np.testing.assert_array_equal(voted[agreed], once[0][agreed])
    assert len({tuple(o) for o in once}) > 1
