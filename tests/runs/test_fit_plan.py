"""taskloom fit on a plan: the same as with flags, and what a plan cannot say is refused."""

from __future__ import annotations

import json

import pytest
import yaml

import taskloom
from taskloom.errors import PlanError, UnknownName
from taskloom.learn.modules.kit.artefact import open_fitted
from taskloom.runs import fit_plan
from taskloom.runs.plan import load_fit_plan, load_plan
from taskloom.store.cache import canonical_digest

from .conftest import MICRO, plan_with

TASKS = list(MICRO["pool"])
BASE = {key: MICRO[key] for key in ("name", "base", "limits", "pool", "train", "fine_tune")}
QUICK = {"steps": 2, "rate": 0.05, "passes": 1}


def planned(**changes):
    return {**BASE, "fit": {"adamerging": QUICK}, **changes}


def given(experts, **changes):
    """A plan with the experts that the small plan has trained."""
    pool = [{"task": task, "expert": path} for task, path in zip(TASKS, experts, strict=True)]
    return planned(pool=pool, **changes)


@pytest.mark.usefixtures("sealed")
def test_a_plan_does_what_the_flags_do(base, experts, tmp_path, cli):
    path = tmp_path / "plan.yaml"
    prefer = {TASKS[0]: 3, TASKS[1]: 1}
    fit = {"adamerging": {**QUICK, "prefer": prefer}}
    plan = given(experts, base={"path": base}, fit=fit, guard="warn", seed=3)
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    status, out, err = cli("fit", path, "-o", tmp_path / "one", "--trace", tmp_path / "one.json")
    assert status == 0, err
    assert f"wrote {tmp_path / 'one'}" in out
    found = taskloom.fit(
        "adamerging",
        TASKS,
        base,
        dict(zip(TASKS, experts, strict=True)),
        options=QUICK,
        preference=prefer,
        limits=load_fit_plan(plan).limits,
        tuned=False,
        seed=3,
        output=tmp_path / "two",
    )
    kept = json.loads((tmp_path / "one.json").read_text())
    assert kept["options"] == found.fitted.options
    notes = [json.loads((tmp_path / name / "taskloom.json").read_text()) for name in ("one", "two")]
    assert notes[0]["outputs"]["digest"] == notes[1]["outputs"]["digest"]
    assert notes[0]["guard"]["values"] == notes[1]["guard"]["values"]


@pytest.mark.usefixtures("sealed")
def test_experts_that_are_not_given_are_those_of_a_run(experts, tmp_path, monkeypatch):
    seen = {}

    def watched(method, tasks, base, pool, **more):
        seen.update(pool)
        return fit_by_name(method, tasks, base, pool, **more)

    fit_by_name = fit_plan.fit_by_name
    monkeypatch.setattr(fit_plan, "fit_by_name", watched)
    options = {"steps": 1, "rank": 4}
    plan = planned(fit={"method": "surgery", "options": options, "examples": 20})
    found = taskloom.fit_by_plan(plan, output=tmp_path / "out")
    assert seen == dict(zip(TASKS, experts, strict=True))  # in the cache already
    assert found.verdict.mode == "strict"
    assert found.fitted.said["examples"] == f"{TASKS[0]} 20, {TASKS[1]} 20"
    if found.verdict.winner == "fitted":
        assert open_fitted(tmp_path / "out").kind == "surgery"


def test_targets_limits_and_the_rest_are_handed_on(experts, base, monkeypatch):
    told = {}
    monkeypatch.setattr(fit_plan, "fit_by_name", lambda *words, **more: told.update(more, words=words))
    pool = [
        {"task": TASKS[0], "expert": experts[0], "limits": {"train": 9, "validation": 8, "test": 7}},
        {"task": TASKS[1], "expert": experts[1]},
    ]
    fit = {"method": "surgery", "tasks": [TASKS[0], "digits_ten"], "merged": "there", "labels": 50}
    more = {"batch_size": 8, "transductive": True}
    taskloom.fit_by_plan(
        planned(
            pool=pool,
            targets=[{"task": "digits_ten", "labels": 40, "test": 30}],
            fit={**fit, **more},
            fine_tune={"steps": 5},
            evaluation={"batch_size": 32},
        )
    )
    assert told["words"][1] == [TASKS[0], "digits_ten"]
    assert told["words"][2] == base
    assert told["words"][3] == dict(zip(TASKS, experts, strict=True))
    assert told["labels"] == {TASKS[0]: 50, "digits_ten": 40}
    assert {task: limits.test for task, limits in told["limits"].items()} == {
        TASKS[0]: 7,
        "digits_ten": 30,
    }
    assert (told["split"], told["transductive"], told["batch_size"]) == ("test", True, 8)
    assert (told["merged"], told["tune"], told["tuned"]) == ("there", {"steps": 5}, True)
    assert told["evaluation"].batch_size == 32


def test_short_and_long_forms_mean_the_same():
    short = load_fit_plan(planned(fit="divmerge"))
    assert short.fit == load_fit_plan(planned(fit={"divmerge": None})).fit
    assert short.fit == load_fit_plan(planned(fit={"method": "divmerge", "options": {}})).fit


def test_a_plan_without_fit_has_the_digest_that_it_always_had():
    plan, _ = load_plan(MICRO)
    content = plan.model_dump(mode="json")
    assert content.pop("fit") is None
    assert plan.digest == canonical_digest(content)
    assert load_fit_plan(planned()).digest != load_plan(BASE)[0].digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fti": "atlas"}, "unknown key 'fti': did you mean 'fit'?"),
        ({"fit": "adamergin"}, "unknown fitting method or small module 'adamergin': did you mean"),
        ({"fit": {"adamerging": {"stepps": 3}}}, "adamerging: unknown option 'stepps': did you mean"),
        ({"fit": {"adamerging": {"steps": 0}}}, "greater than or equal to 1"),
        ({"fit": {"adamerging": 3}}, "adamerging: expected options and their values, found int 3"),
        (
            {"fit": {"atlas": {}, "divmerge": {}}},
            "expected one fitting method and its options, found atl",
        ),
        ({"fit": {"method": "atlas", "exampels": 3}}, "fit: unknown key 'exampels': did you mean"),
        ({"fit": {"method": "atlas", "merged": "x"}}, "atlas fits a merge of its own, and sits on none"),
        ({"fit": {"method": "atlas", "tasks": ["digits_ten"]}}, "neither in the pool nor a target"),
        ({"fit": {"method": "atlas", "tasks": ["digits_tne"]}}, "did you mean 'digits_ten'"),
        ({"fit": {"method": "atlas", "tasks": [TASKS[0], TASKS[0]]}}, "is fitted on twice"),
        ({"fit": None}, "does not say what is fitted"),
        ({"merge": ["average"]}, "'merge' is for 'taskloom run', and 'taskloom fit' does not use it"),
        ({"select": ["knn"]}, "'select' is for 'taskloom run'"),
        ({"targets": ["digits_ten"]}, "the target 'digits_ten' is not fitted on"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(changes, told):
    with pytest.raises(PlanError) as caught:
        load_fit_plan(planned(**changes))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_refuses_a_plan_of_a_fit(tmp_path, cli):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_with(fit="adamerging")), encoding="utf-8")
    status, _, err = cli("run", path, "-o", tmp_path / "out")
    assert status == 2
    assert "which taskloom run does not carry out. Give the plan to 'taskloom fit'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--base", "x"],
        ["--expert", "a=x"],
        ["--task", "trec6"],
        ["--set", "steps=2"],
        ["--prefer", "a=1"],
        ["--labels", "64"],
        ["--guard", "warn"],
        ["--no-fine-tune"],
        ["--transductive"],
        ["--seed", "1"],
    ],
)
def test_flags_that_a_plan_says_are_refused_beside_it(words, tmp_path, cli):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(planned()), encoding="utf-8")
    status, _, err = cli("fit", path, *words)
    assert status == 2
    assert f"plan.yaml is a plan, which says what {words[0]} would. Write it there" in err


def test_what_flags_must_say(cli, tmp_path):
    status, _, err = cli("fit", "adamerging", "--base", "x")
    assert status == 2
    assert "fitting adamerging needs --expert, --task. Give it, or a plan" in err
    status, _, err = cli("fit", tmp_path / "none.yaml")
    assert status == 2
    assert "there is no plan" in err


def test_unknown_names_are_their_own_error():
    with pytest.raises(UnknownName):
        load_fit_plan(planned(fit="adamergin"))
