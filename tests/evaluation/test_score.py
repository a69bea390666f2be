import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import registry
from taskloom.errors import DataError, UnknownName
from taskloom.evaluation.interval import bootstrap, paired_difference, wilson
from taskloom.evaluation.score import score
from taskloom.runs.result import ScoreRecord


def noisy(n, wrong, classes=2, seed=0):
    """Labels, and predictions of which ``wrong`` differ."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    predictions = labels.copy()
    picked = rng.choice(n, size=wrong, replace=False)
    predictions[picked] = (labels[picked] + 1) % classes
    return labels, predictions


# --- Wilson: the ends are the shares p with |successes / n - p| = z * sqrt(p * (1 - p) / n)


def wilson_by_bisection(successes, n, z=1.959963984540054):
    share = successes / n

    def excess(p):
        return abs(share - p) - z * math.sqrt(p * (1 - p) / n)

    def root(outside, inside):
        for _ in range(200):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if excess(middle) > 0 else (outside, middle)
        return (outside + inside) / 2

    return (root(0.0, share) if successes else 0.0), (root(1.0, share) if successes < n else 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(case):
    assert wilson(*case) == pytest.approx(wilson_by_bisection(*case), abs=1e-9)


def test_wilson_golden():
    # 81 of 263, a textbook example: Newcombe 1998, Statistics in Medicine 17, table I, method 3
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(15, 148)
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    low, high = wilson(0, 20)
    assert (low, round(high, 4)) == (0.0, 0.1611)
    low, high = wilson(29, 29)
    assert (round(low, 4), high) == (0.8830, 1.0)


def test_wilson_contains_the_share_and_shrinks():
    widths = []
    for n in (10, 100, 1000):
        low, high = wilson(n * 8 // 10, n)
        assert low < 0.8 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("case", [(0, 0), (-1, 5), (6, 5), (1, -1)])
def test_wilson_refuses_nonsense(case):
    with pytest.raises(DataError, match="0 <= successes <= n"):
        wilson(*case)


# --- bootstrap


def test_bootstrap_of_accuracy_is_close_to_the_binomial_law():
    labels, predictions = noisy(400, 80)
    low, high = bootstrap(labels, predictions, "accuracy", samples=20_000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.005)
    assert high == pytest.approx(0.8 + half, abs=0.005)


@pytest.mark.parametrize("metric", ["macro_f1", "matthews", "balanced_accuracy"])
def test_drawing_counts_is_the_same_as_drawing_examples(metric):
    labels, predictions = noisy(150, 40, classes=3)
    measure = registry.get("metric", metric).function
    rng = np.random.default_rng(1)
    drawn = [rng.integers(150, size=150) for _ in range(1500)]
    slow = np.percentile([measure(labels[i], predictions[i]) for i in drawn], [2.5, 97.5])
    fast = bootstrap(labels, predictions, metric, samples=20_000)
    assert fast == pytest.approx(slow, abs=0.02)


def test_bootstrap_is_seeded():
    labels, predictions = noisy(60, 12)
    one, two = (bootstrap(labels, predictions, "macro_f1", seed=s) for s in (0, 1))
    assert bootstrap(labels, predictions, "macro_f1", seed=0) == one
    assert one != two


def test_bootstrap_does_not_depend_on_the_order_of_examples():
    labels, predictions = noisy(60, 12)
    order = np.random.default_rng(3).permutation(60)
    assert bootstrap(labels, predictions, "macro_f1") == bootstrap(
        labels[order], predictions[order], "macro_f1"
    )


def test_bootstrap_of_a_metric_without_counts(monkeypatch):
    labels, predictions = noisy(100, 20)
    quick = bootstrap(labels, predictions, "accuracy")
    monkeypatch.delitem(
        __import__("taskloom.evaluation.interval", fromlist=["CONFUSION"]).CONFUSION, "accuracy"
    )
    assert bootstrap(labels, predictions, "accuracy", samples=1000) == pytest.approx(quick, abs=0.03)


def test_class_numbers_may_have_gaps():
    labels, predictions = noisy(80, 16)
    assert bootstrap(labels * 7, predictions * 7, "macro_f1") == bootstrap(
        labels, predictions, "macro_f1"
    )


# --- paired difference


def test_a_clear_gain_excludes_zero():
    labels, good = noisy(300, 15, seed=1)
    _, bad = noisy(300, 90, seed=1)
    gain, low, high = paired_difference(labels, good, bad)
    assert gain == pytest.approx(0.25)
    assert 0 < low < gain < high


def test_swapping_turns_the_sign():
    labels, a = noisy(200, 20, seed=2)
    _, b = noisy(200, 50, seed=2)
    gain, low, high = paired_difference(labels, a, b)
    back, lower, higher = paired_difference(labels, b, a)
    assert back == -gain
    assert (lower, higher) == pytest.approx((-high, -low), abs=0.02)


def test_pairing_is_tighter_than_two_separate_intervals():
    labels, a = noisy(500, 100)
    b = a.copy()
    b[np.flatnonzero(a == labels)[:5]] ^= 1
    gain, low, high = paired_difference(labels, a, b)
    assert gain == pytest.approx(0.01)
    single = bootstrap(labels, a, "accuracy")
    assert high - low < (single[1] - single[0]) / 3


def test_paired_variance_of_accuracy_matches_theory():
    labels, a = noisy(400, 60, seed=4)
    _, b = noisy(400, 100, seed=5)
    b = np.where(np.random.default_rng(5).random(400) < 0.25, 1 - labels, labels)
    difference = (a == labels).astype(float) - (b == labels)
    gain, low, high = paired_difference(labels, a, b, samples=20_000)
    assert gain == pytest.approx(difference.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * difference.std() / 20, rel=0.05)


# --- score


def test_accuracy_uses_wilson():
    labels, predictions = noisy(263, 263 - 81)
    found = score(labels, predictions, model="base", task="coin")
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert (found.interval, found.n, found.metric, found.split) == ("wilson", 263, "accuracy", "test")


@pytest.mark.parametrize("metric", ["macro_f1", "matthews", "balanced_accuracy"])
def test_others_use_the_bootstrap(metric):
    labels, predictions = noisy(200, 40)
    found = score(labels, predictions, metric=metric, split="validation", seed=9)
    assert found.interval == "bootstrap"
    assert found.low < found.value < found.high
    assert (found.low, found.high) == bootstrap(labels, predictions, metric, seed=9)
    assert found.seed == 9


def test_a_score_is_a_record_of_a_run():
    labels, predictions = noisy(20, 5)
    found = score(labels, predictions, model="ties", task="coin")
    assert ScoreRecord(**dataclasses.asdict(found)).value == found.value


def test_a_perfect_score_still_has_an_interval():
    labels = np.zeros(10, np.int64)
    found = score(labels, labels)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "predictions", "match"),
    [
        (np.zeros(0, int), np.zeros(0, int), "nothing to score"),
        (np.zeros(3, int), np.zeros(2, int), r"shape \(3,\) and predictions \(2,\)"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), r"expected \(N,\)"),
        (np.zeros(3, int), np.zeros(3), "predictions must be class numbers"),
        (np.array([0, -1]), np.array([0, 1]), "labels must be class numbers"),
    ],
)
def test_what_cannot_be_scored(labels, predictions, match):
    with pytest.raises(DataError, match=match):
        score(labels, predictions)


def test_unknown_metric():
    with pytest.raises(UnknownName, match="did you mean 'matthews'"):
        score(np.array([0, 1]), np.array([0, 1]), metric="mathews")
