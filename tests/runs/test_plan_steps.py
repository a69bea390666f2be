"""Lists of steps in a plan: composed, swept, refused before anything is read."""

from __future__ import annotations

import re

import pytest
import yaml

from taskloom.errors import PlanError
from taskloom.runs.plan import load_plan

from .conftest import plan_with

STEPS = [{"keep": 0.2}, "elect", {"mean": "kept"}]


def item(merge):
    (found,) = load_plan(plan_with(merge=[merge]))[0].merge
    return found


def test_a_list_of_steps_is_a_merge():
    found = item({"steps": STEPS})
    assert (found.method, found.label) == ("steps", "steps")
    assert str(found.recipe(0).chain) == "keep(0.2, model) -> elect -> mean(kept)"
    named = item({"steps": [{"drop": 0.5}, "total"], "name": "mine", "space": "delta"})
    assert named.label == "mine"
    assert str(named.recipe(7).chain) == "drop(0.5, seed 7) -> total"


def test_weights_are_merged_too():
    assert item({"steps": ["mean"], "space": "weight"}).recipe(0).chain.space == "weight"


@pytest.mark.parametrize("where", ["scale.factor", "4.factor"])
def test_an_option_of_a_step_is_swept(where):
    found = item({"steps": [*STEPS, "scale"], "sweep": {where: [0.3, 1.0]}})
    chains = [str(found.recipe(0, **{where: value}).chain) for value in (0.3, 1.0)]
    assert [text.rsplit(" -> ", 1)[1] for text in chains] == ["scale(0.3)", "scale(1)"]


def test_the_plan_reads_back_from_its_yaml():
    plan, text = load_plan(plan_with(merge=["average", {"steps": STEPS, "name": "mine"}]))
    assert load_plan(yaml.safe_load(text))[0] == plan


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"steps": ["kep"]}, "unknown merging step 'kep' in step 1: did you mean 'keep'?"),
        ({"steps": []}, "expected a list of one step or more"),
        ({"steps": [{"keep": 2}, "total"]}, "step 1: keep: option 'density' is 2"),
        ({"steps": ["elect"]}, "ends with 2 rows"),
        ({"steps": ["total"], "nme": "x"}, "did you mean 'name'?"),
        ({"steps": ["total"], "sweep": {"scale.factor": [1]}}, "'scale.factor' means no step"),
        ({"steps": ["total", {"scale": 1}], "sweep": {"2.factor": [1]}}, "both set and swept"),
        (
            {"steps": ["total", "scale"], "sweep": {"2.facter": [1]}},
            "unknown option 'facter': did you mean 'factor'?",
        ),
        ({"steps": [{"weigh": {"weights": [1]}}, "total"]}, "1 weights were given for 2 experts"),
        ({"steps": ["tall_masks", {"take": "digits_mod"}]}, "did you mean 'digits_mod3'?"),
    ],
    ids=str,
)
def test_steps_that_cannot_be(merge, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        load_plan(plan_with(merge=[merge]))


def test_two_lists_need_names():
    with pytest.raises(PlanError, match="two merges are called 'steps'"):
        load_plan(plan_with(merge=[{"steps": ["total"]}, {"steps": ["mean"]}]))
