"""A rewarded soup and edits in a plan: every mixture tried, the front told, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import taskloom
from taskloom.errors import PlanError
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.pipeline import run
from taskloom.runs.plan import load_plan
from taskloom.runs.result import RunResult

from .conftest import MICRO, plan_with

PARITY, MOD3 = MICRO["pool"]


def plan(base, experts, *merge, **more):
    pool = [{"task": t, "expert": e} for t, e in zip(MICRO["pool"], experts, strict=True)]
    return plan_with(base={"path": base}, pool=pool, targets=[], merge=list(merge), guard="warn", **more)


@pytest.fixture(scope="module")
def done(base, experts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards") / "run"
    soup = {"rewarded_soup": {"rewards": {PARITY: 1, MOD3: 3}, "levels": 4}}
    negation = {"task_negation": {"sweep": {"scale": [0.1, 0.4]}}}
    return folder, run(plan(base, experts, soup, negation), output=folder)


def test_every_mixture_is_scored_and_the_best_by_the_weights_is_taken(done, base, experts):
    folder, result = done
    (front,) = result.fronts
    assert (front.method, front.experts, front.rewards) == (
        "rewarded_soup",
        [PARITY, MOD3],
        [PARITY, MOD3],
    )
    assert [m.weights for m in front.mixtures] == [[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]
    values = [sum(w * r for w, r in zip((1, 3), m.rewards, strict=True)) for m in front.mixtures]
    assert [m.chosen for m in front.mixtures].index(True) == int(np.argmax(values))
    for one in front.mixtures:
        beaten = any(
            all(a >= b for a, b in zip(o.rewards, one.rewards, strict=True)) and o.rewards != one.rewards
            for o in front.mixtures
        )
        assert one.on_front is not beaten
        assert one.n == [40, 40]
        for low, value, high in zip(one.low, one.rewards, one.high, strict=True):
            assert low <= value <= high
    (chosen,) = [m for m in front.mixtures if m.chosen]
    (model,) = [m for m in result.models if m.name == "rewarded_soup"]
    assert model.options["preference"] == dict(zip(front.experts, chosen.weights, strict=True))
    assert RunResult.model_validate(json.loads((folder / "result.json").read_text())).fronts == [front]


def test_a_score_is_that_of_the_mixture(done, base, experts):
    folder, result = done
    (front,) = result.fronts
    mixture = front.mixtures[1]
    weights = taskloom.merge(None, experts, "average", weights=mixture.weights)
    data = load_task(MOD3, seed=0, max_train=60, max_validation=40, max_test=60)
    encoder = Encoder.load(base)
    head = Head.load(folder / "handover" / "pool", MOD3)
    precision = "bf16"  # the plan's own for choices
    features = encoder.features(data.validation.inputs, weights=weights, precision=precision)
    found = float(np.mean(head.predict(features) == data.validation.labels))
    assert mixture.rewards[1] == pytest.approx(found)


def test_the_report_shows_the_front_and_the_edit(done):
    page = (done[0] / "report.html").read_text()
    assert "rewarded soup: the front" in page
    assert "task negation: scale" in page
    assert "on the front; chosen:" in page


def test_an_edit_in_a_plan_is_the_edit_of_the_verb(done, base, experts):
    _, result = done
    (model,) = [m for m in result.models if m.name == "task_negation"]
    chosen = [p.setting for p in result.sweeps if p.method == "task_negation" and p.chosen]
    assert [model.options["scale"]] == chosen
    assert model.composition.endswith(f"scale(-{chosen[0]:g})")


def test_nothing_is_scored_twice(done, base, experts, monkeypatch):
    folder, before = done

    def again(*_, **__):
        raise AssertionError("the mixtures were scored again")

    monkeypatch.setattr("taskloom.runs.mixtures.rewarded_soup", again)
    soup = {"rewarded_soup": {"rewards": {PARITY: 1, MOD3: 3}, "levels": 4}}
    after = run(plan(base, experts, soup), output=folder)
    assert after.fronts == before.fronts


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"rewarded_soup": {"rewards": {PARITY: 1}}}, "two rewards or more"),
        ({"rewarded_soup": {"rewards": {PARITY: 0, MOD3: 0}}}, "of which one has a weight"),
        ({"rewarded_soup": {"rewards": {PARITY: 1, "digits_ten": 1}}}, "'digits_ten' is not a task of"),
        ({"rewarded_soup": {"rewards": {PARITY: -1, MOD3: 1}}}, "greater than or equal to 0"),
        ({"rewarded_soup": {"rewards": {PARITY: 1, MOD3: 1}, "levels": 1002}}, "1002 mixtures"),
        (
            {"rewarded_soup": {"rewards": {PARITY: 1, MOD3: 1}, "levels": 1}},
            "greater than or equal to 2",
        ),
        ({"rewarded_soup": {"levels": 4}}, "levels say how many mixtures"),
        ({"average": {"rewards": {PARITY: 1, MOD3: 1}}}, "of a rewarded_soup, and of nothing else"),
        (
            {"rewarded_soup": {"rewards": {PARITY: 1, MOD3: 1}, "preference": [1, 1]}},
            "of a rewarded_soup, and of nothing else",
        ),
    ],
)
def test_what_is_refused(item, said):
    with pytest.raises(PlanError, match=said):
        load_plan(plan_with(merge=[item]))
