"""Rankings and their agreement with the truth."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.choose.agreement import ndcg, over_targets, regret_at_k, spearman, weighted_tau
from taskloom.choose.rank import Ranked, rank
from taskloom.errors import DataError, MissingExtra, NumericalError, PlanError, UnknownName

SCORES = [0.9, 0.7, 0.8, 0.1]
TRUTH = [0.80, 0.78, 0.70, 0.60]


def features(gap, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    return rng.normal(size=(40, 3)) + gap * labels[:, None], labels


def test_rank_orders_and_reports():
    weak, labels = features(0.2)
    strong, _ = features(5.0)
    rankings = rank({"weak": weak, "strong": strong}, labels, ["logme", ("knn", {"k": 3})])
    assert [r.score for r in rankings] == ["logme", "knn"]
    for ranking in rankings:
        assert [e.expert for e in ranking.entries] == ["strong", "weak"]
        assert [e.rank for e in ranking.entries] == [1, 2]
        assert ranking.best == "strong"
        assert ranking.seconds >= 0
        assert ranking.values(["weak", "strong"]) == [
            ranking.entries[1].value,
            ranking.entries[0].value,
        ]
    assert rankings[1].options == (("k", 3),)


def test_ties_stay_in_pool_order():
    same, labels = features(1.0)
    for order in itertools.permutations(["c", "a", "b"]):
        ranking = rank(dict.fromkeys(order, same), labels, ["h_score"])[0]
        assert tuple(e.expert for e in ranking.entries) == order
        assert [e.rank for e in ranking.entries] == [1, 2, 3]


def test_ranked_is_a_value():
    assert Ranked("a", 0.5, 1) == Ranked("a", 0.5, 1)


def test_progress_is_told():
    told = []
    same, labels = features(1.0)
    rank({"a": same, "b": same}, labels, ["knn", "logme"], progress=lambda *call: told.append(call))
    assert told == [("rank experts", i, 4) for i in (1, 2, 3, 4)]


def test_errors_name_the_expert():
    good, labels = features(1.0)
    with pytest.raises(NumericalError, match=r"^expert 'broken': logme: expected finite"):
        rank({"good": good, "broken": good * np.nan}, labels, ["logme"])
    with pytest.raises(DataError, match=r"^expert 'short': "):
        rank({"good": good, "short": good[:3]}, labels, ["logme"])
    with pytest.raises(UnknownName, match="did you mean 'h_score'"):
        rank({"good": good}, labels, ["hscore"])
    with pytest.raises(PlanError, match="unknown option"):
        rank({"good": good}, labels, [("logme", {"k": 2})])
    with pytest.raises(DataError, match="at least one expert and one score, found 0 and 1"):
        rank({}, labels, ["knn"])
    with pytest.raises(DataError, match="found 1 and 0"):
        rank({"good": good}, labels, [])


# --- agreement -------------------------------------------------------------------------------


def test_golden_agreement():
    assert weighted_tau(SCORES, TRUTH) == pytest.approx(0.733333, abs=1e-6)
    assert regret_at_k([0.8, 0.9, 0.85, 0.1], TRUTH, k=2, form="mean", relative=True) == (
        pytest.approx(0.063291, abs=1e-6)
    )
    assert regret_at_k([0.7, 0.9, 0.8, 0.1], TRUTH, k=2, relative=True) == pytest.approx(0.025)


def loop_weighted_tau(a, b):
    """Hyperbolic additive weights 1/(r+1), mean over ranking by (a, b) and by (b, a); no ties."""

    def by(first):
        place = {i: r for r, i in enumerate(sorted(range(len(first)), key=lambda i: -first[i]))}
        top = bottom = 0.0
        for i, j in itertools.combinations(range(len(a)), 2):
            weight = 1 / (place[i] + 1) + 1 / (place[j] + 1)
            top += weight * np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
            bottom += weight
        return top / bottom

    return (by(a) + by(b)) / 2


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_weighted_tau_equals_the_loop(a, b):
    assert weighted_tau(a, b) == pytest.approx(loop_weighted_tau(a, b), abs=1e-9)


@given(st.permutations(range(6)))
def test_spearman_of_permutations(order):
    distance = sum((i - j) ** 2 for i, j in enumerate(order))
    assert spearman(range(6), order) == pytest.approx(1 - 6 * distance / (6 * 35), abs=1e-12)


def test_perfect_and_reversed():
    up = [1, 2, 3, 4]
    for measure in (weighted_tau, spearman):
        assert measure(up, up) == pytest.approx(1.0)
        assert measure(up, up[::-1]) == pytest.approx(-1.0)


@pytest.mark.parametrize("measure", [weighted_tau, spearman])
def test_undefined_is_none(measure):
    assert measure([1.0], [1.0]) is None
    assert measure([], []) is None
    assert measure([1, 1, 1], [1, 2, 3]) is None
    assert measure([1, 2, 3], [2, 2, 2]) is None


@pytest.mark.parametrize("measure", [weighted_tau, spearman, regret_at_k, ndcg])
def test_bad_vectors_are_refused(measure):
    with pytest.raises(DataError, match=r"found shapes \(2,\) and \(3,\)"):
        measure([1, 2], [1, 2, 3])
    with pytest.raises(NumericalError, match="NaN or infinity"):
        measure([1, np.nan], [1, 2])
    with pytest.raises(NumericalError, match="NaN or infinity"):
        measure([1, 2], [1, np.inf])


def test_regret_by_hand():
    assert regret_at_k(SCORES, TRUTH) == 0.0
    assert regret_at_k([0, 0, 0, 1], TRUTH) == pytest.approx(0.20)
    assert regret_at_k([0, 0, 0, 1], TRUTH, relative=True) == pytest.approx(0.25)
    assert regret_at_k([0, 0, 2, 1], TRUTH, k=2, form="mean") == pytest.approx(0.79 - 0.65)
    assert regret_at_k([0, 0, 0, 1], TRUTH, k=4) == 0.0


def test_regret_of_ties_takes_the_first():
    assert regret_at_k([1, 1, 1], [0.1, 0.5, 0.9]) == pytest.approx(0.8)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.data())
def test_regret_is_never_negative_and_falls_with_k(truth, data):
    scores = data.draw(st.lists(st.floats(-5, 5), min_size=len(truth), max_size=len(truth)))
    regrets = [regret_at_k(scores, truth, k=k) for k in range(1, len(truth) + 1)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(regrets))
    assert regrets[-1] == 0.0


def test_golden_ndcg():
    """Card E: gold order a, b, c, d against the predicted b, a, d, c; and gains of performance."""
    assert ndcg([3, 4, 1, 2], [4, 3, 2, 1]) == pytest.approx(0.855194, abs=1e-6)
    assert ndcg(SCORES, TRUTH, gains="truth") == pytest.approx(0.971190, abs=1e-6)


def loop_ndcg(scores, worth):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    ideal = sorted(worth, reverse=True)
    total = sum(worth[i] / np.log2(place + 2) for place, i in enumerate(order))
    return total / sum(w / np.log2(place + 2) for place, w in enumerate(ideal))


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_ndcg_equals_the_loop(scores, truth):
    worth = [2 ** (t + 1) - 1 for t in truth]
    assert ndcg(scores, truth) == pytest.approx(loop_ndcg(scores, worth), abs=1e-12)
    found = ndcg(scores, truth, gains="truth")
    assert found == pytest.approx(loop_ndcg(scores, list(truth)), abs=1e-12)
    assert ndcg(truth, truth) == pytest.approx(1.0)


def test_ndcg_is_undefined_without_a_best():
    assert ndcg([1, 2], [3, 3]) is None
    assert ndcg([1], [3]) is None
    assert ndcg([1, 1], [1, 2]) < 1, "equal scores rank in the given order"


def test_over_targets():
    values = [0.1, 0.4, 0.7, 0.9, None, 0.2]
    found = over_targets(values)
    assert (found.targets, found.undefined) == (5, 1)
    assert found.mean == pytest.approx(0.46)
    assert 0.1 < found.low < found.mean < found.high < 0.9
    wide = over_targets(values, level=0.99)
    assert wide.low <= found.low
    assert wide.high >= found.high
    assert over_targets(values) == found
    many = over_targets([0.3] * 4)
    assert (many.low, many.high) == (0.3, 0.3)


def test_over_targets_is_as_wide_as_the_mean_is_unsure():
    rng = np.random.default_rng(0)
    values = rng.normal(size=200).tolist()
    found = over_targets(values)
    error = np.std(values) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("values", "level", "error"),
    [([None], 0.95, DataError), ([], 0.95, DataError), ([0.5], 1.0, DataError),
     ([np.nan, 0.5], 0.95, NumericalError)],
)  # fmt: skip
def test_over_targets_refuses(values, level, error):
    with pytest.raises(error, match=r"^agreement: "):
        over_targets(values, level=level)


def test_regret_refuses_k_and_a_best_of_zero():
    with pytest.raises(DataError, match="found k = 5 of 4"):
        regret_at_k(SCORES, TRUTH, k=5)
    with pytest.raises(DataError, match="found k = 0 of 4"):
        regret_at_k(SCORES, TRUTH, k=0)
    with pytest.raises(NumericalError, match="positive best"):
        regret_at_k([1, 2], [-1.0, -2.0], relative=True)


@pytest.mark.parametrize("measure", [weighted_tau, spearman])
def test_missing_extra(measure, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra, match="scipy"):
        measure(SCORES, TRUTH)
