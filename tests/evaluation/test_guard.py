import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import NumericalError, PlanError
from taskloom.evaluation.guard import Paired, guard
from taskloom.evaluation.interval import paired_difference

VALUES = st.floats(0, 1).map(lambda v: round(v, 2))


def named(prefix):
    return st.lists(VALUES, max_size=5).map(lambda vs: {f"{prefix}{i}": v for i, v in enumerate(vs)})


@given(base=VALUES, experts=named("e"), merges=named("m"))
def test_the_rule(base, experts, merges):
    verdict = guard(base, experts, merges)
    best_single = max([base, *experts.values()])
    assert verdict.best_single_value == best_single
    assert set(verdict.refused) == {name for name, v in merges.items() if v < best_single}
    everything = {"base": base, **experts, **merges}
    assert everything[verdict.winner] == max(everything.values())
    assert verdict.winner not in verdict.refused
    if verdict.winner in merges:
        assert merges[verdict.winner] > best_single
    assert verdict.winner in verdict.reason


def test_a_better_merge_wins():
    verdict = guard(0.5, {"spam": 0.7}, {"ties": 0.8, "average": 0.65}, yardstick="mean accuracy")
    assert verdict.winner == verdict.best_merge == "ties"
    assert verdict.refused == ("average",)
    assert verdict.gain == pytest.approx(0.1)
    assert verdict.reason == (
        "ties wins: its mean accuracy is 0.8000, the best single model (spam) has 0.7000"
    )


def test_a_losing_merge_is_refused_and_the_sentence_says_so():
    verdict = guard(0.5, {"spam": 0.7}, {"ties": 0.65, "average": 0.6})
    assert verdict.winner == "spam"
    assert verdict.refused == ("ties", "average")
    assert "not handed over: ties, average" in verdict.reason


def test_the_base_can_be_the_best_single_model():
    verdict = guard(0.9, {"spam": 0.7}, {"ties": 0.8})
    assert verdict.winner == verdict.best_single == "base"
    assert verdict.refused == ("ties",)


def test_a_draw_goes_to_the_single_model_and_refuses_nothing():
    verdict = guard(0.5, {"spam": 0.7}, {"ties": 0.7})
    assert verdict.winner == "spam"
    assert verdict.refused == ()
    assert "equals it" in verdict.reason


def test_a_draw_among_singles_goes_to_the_base_then_to_the_first():
    assert guard(0.7, {"a": 0.7}, {}).winner == "base"
    assert guard(0.5, {"b": 0.7, "a": 0.7}, {}).winner == "b"
    assert guard(0.5, {}, {"n": 0.8, "m": 0.8}).winner == "n"


def test_no_merge():
    verdict = guard(0.5, {"spam": 0.7}, {})
    assert (verdict.best_merge, verdict.best_merge_value, verdict.gain) == (None, None, None)
    assert verdict.reason.endswith("there is no merge")


def test_the_base_may_have_another_name():
    assert guard(0.9, {}, {"ties": 0.8}, base_name="minilm").winner == "minilm"


def test_predictions_add_an_interval():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    merge = np.where(rng.random(200) < 0.1, 1 - labels, labels)
    single = np.where(rng.random(200) < 0.3, 1 - labels, labels)
    values = [float((p == labels).mean()) for p in (merge, single)]
    paired = Paired(labels, {"ties": merge, "spam": single}, seed=4)
    verdict = guard(0.5, {"spam": values[1]}, {"ties": values[0]}, paired=paired)
    _, low, high = paired_difference(labels, merge, single, seed=4)
    assert (verdict.gain_low, verdict.gain_high) == (low, high)
    assert f"95 % interval {low:+.4f} to {high:+.4f}" in verdict.reason


def test_predictions_of_others_add_none():
    labels = np.array([0, 1])
    verdict = guard(0.5, {"spam": 0.7}, {"ties": 0.8}, paired=Paired(labels, {"ties": labels}))
    assert (verdict.gain_low, verdict.gain_high) == (None, None)
    assert verdict.gain == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["base", "expert", "merge"])
def test_what_is_not_finite_is_refused(bad, place):
    values = {"base": 0.5, "expert": 0.6, "merge": 0.7, place: bad}
    with pytest.raises(NumericalError, match=f"of '{place}' is {bad}"):
        guard(values["base"], {"expert": values["expert"]}, {"merge": values["merge"]})


@pytest.mark.parametrize(("experts", "merges"), [({"a": 0.1}, {"a": 0.2}), ({"base": 0.1}, {})])
def test_names_must_differ(experts, merges):
    with pytest.raises(PlanError, match="two models are called"):
        guard(0.5, experts, merges)
