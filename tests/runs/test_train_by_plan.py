"""Training on several sources by their weights, and then on the target; what select writes for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import taskloom
from taskloom.errors import OutputError, PlanError, UnknownName
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.runs.advice import Advice, Advised
from taskloom.runs.training_plan import is_training_plan, load_training_plan, write_train
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import open_pool

from .conftest import MICRO

FIRST, SECOND = MICRO["pool"]


def plan_of(base, **changes):
    plan = {
        "target": "digits_ten",
        "base": base,
        "sources": [{"task": FIRST, "weight": 3}, SECOND],
        "labels": 40,
        "limits": {"train": 60, "validation": 40},
        "first": {"steps": 8, "batch_size": 16, "learning_rate": 0.003},
        "then": {"steps": 4, "batch_size": 16, "learning_rate": 0.003},
    }
    return {**plan, **changes}


def advice_of(weights):
    sources = tuple(
        Advised(name, n, float(n), None, None, None, weight, None, {}, ())
        for n, (name, weight) in enumerate(weights.items(), start=1)
    )
    return Advice(1.0, 0.0, 0.0, 0.0, (), sources, None, True, "Take: the first", ())


def test_both_trainings_restated(base, tmp_path, sealed):
    """Steps by weight; a head fitted on what the sources left; the second training starts from there."""
    found = taskloom.train_by_plan(plan_of(base), output=tmp_path / "out")
    assert found.steps == {FIRST: 6, SECOND: 2}
    assert found.weights == {FIRST: 3.0, SECOND: 1.0}
    table = json.loads((tmp_path / "out/taskloom.json").read_text())
    assert table["first"]["steps"] == {FIRST: 6, SECOND: 2}
    assert table["first"]["base"]["digest"] == Encoder.load(base).digest()
    assert table["task"] == "digits_ten"
    middle = Path(table["base"]["directory"])
    assert Encoder.load(middle).digest() == table["base"]["digest"] == table["inputs"]["encoder"]
    assert Encoder.load(middle).digest() != Encoder.load(base).digest()
    data = load_task("digits_ten", n_labels=40)
    assert len(data.train) + len(data.validation) == 40
    encoder = Encoder.load(middle)
    features = encoder.features(data.train.inputs)
    head = fit_head(features, data.train.labels, data.task.label_names, task="digits_ten")
    own = Head.load(tmp_path / "out", "digits_ten")
    np.testing.assert_allclose(own.weight, head.weight, atol=1e-5)
    assert head_names(tmp_path / "out") == ("digits_ten",)
    before = own.predict(encoder.features(data.validation.inputs)) == data.validation.labels
    assert found.expert.before.accuracy == pytest.approx(before.mean(), abs=0.03)
    after = open_checkpoint(str(tmp_path / "out")).digest()
    assert after not in (open_checkpoint(middle).digest(), open_checkpoint(base).digest())
    assert found.expert.directory == tmp_path / "out"


def test_the_same_plan_is_found_and_other_weights_are_another(base, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_of(base)))
    assert is_training_plan(path)
    first = taskloom.train_by_plan(path, output=tmp_path / "one")
    again = taskloom.train_by_plan(plan_of(base), output=tmp_path / "two")
    assert again.expert.cached
    assert (first.expert.key, first.first) == (again.expert.key, again.first)
    other = taskloom.train_by_plan(plan_of(base, sources=[FIRST, SECOND]), output=tmp_path / "three")
    assert other.steps == {FIRST: 4, SECOND: 4}
    assert other.expert.key != first.expert.key
    with pytest.raises(OutputError):
        taskloom.train_by_plan(path, output=tmp_path / "one")


def test_passes_over_the_sources_become_steps(base):
    plan = load_training_plan(plan_of(base, first={"epochs": 2, "batch_size": 16}))
    assert plan.options_first(120).steps == 15
    assert load_training_plan(plan_of(base, first={})).options_first(10).steps == 1
    assert plan.options_then().steps == 4


def test_select_writes_a_plan_and_train_carries_it_out(base, experts, tmp_path, cli):
    words = ["select", "digits_ten", "--base", base, "--labels", 40, "--score", "knn", "--budget", 5]
    for name, path in zip(("one", "two"), experts, strict=True):
        words += ["--expert", f"{name}={path}"]
    path = tmp_path / "sources.yaml"
    status, out, err = cli(*words, "--write-train", path, "--write-merge", tmp_path / "merge.yaml")
    assert status == 0, err
    assert f"wrote {path}: taskloom train {path} -o OUT" in out
    plan = yaml.safe_load(path.read_text())
    status, out, err = cli(*words, "--json")
    advice = json.loads(out)["advice"]
    assert path.read_text().startswith(f"# {advice['sentence']}\n")
    tasks = {"one": FIRST, "two": SECOND}
    assert {each["task"]: each["weight"] for each in plan["sources"]} == {
        tasks[each["expert"]]: pytest.approx(each["weight"], abs=1e-6)
        for each in advice["sources"]
        if each["weight"]
    }
    assert plan["then"] == {"steps": 30, "batch_size": 16}
    plan |= {"limits": {"train": 40, "validation": 20}, "then": {"steps": 2}}
    path.write_text(yaml.safe_dump(plan))
    status, out, err = cli("train", path, "-o", tmp_path / "out")
    assert status == 0, err
    assert "Trained on first" in out
    assert f"{tmp_path / 'out'}: digits_ten, 2 steps in" in out
    assert (tmp_path / "out/heads/digits_ten.safetensors").is_file()
    status, out, _ = cli("train", path, "-o", tmp_path / "again", "--json")
    assert json.loads(out)["expert"]["cached"]


def test_weights_of_one_task_are_added_and_none_is_guessed(base, experts, tmp_path):
    pool = open_pool(base, [experts[0], experts[0], experts[1]], names=["a", "b", "c"])
    told = {"target": "digits_ten", "labels": 200, "seed": 3}
    path = tmp_path / "plan.yaml"
    write_train(advice_of({"a": 0.5, "c": 0.25, "b": 0.25}), base, pool, path, trained_on={}, **told)
    plan = load_training_plan(path)
    assert {each.task: each.weight for each in plan.sources} == {FIRST: 0.75, SECOND: 0.25}
    assert (plan.labels, plan.seed, plan.then["steps"]) == (200, 3, 60)
    given = {"a": SECOND, "b": SECOND}
    write_train(advice_of({"a": 0.5, "b": 0.5, "c": 0.0}), base, pool, path, trained_on=given, **told)
    assert {each.task: each.weight for each in load_training_plan(path).sources} == {SECOND: 1.0}
    headless = Path(shutil.copytree(base, tmp_path / "headless"))
    shutil.rmtree(headless / "heads")
    bare = open_pool(base, [headless], names=["bare"])
    with pytest.raises(PlanError, match="expert 'bare': a plan of training needs the task"):
        write_train(advice_of({"bare": 1.0}), base, bare, tmp_path / "no.yaml", trained_on={}, **told)
    with pytest.raises(PlanError, match="the plan: the source 'digits_ten' is the target itself"):
        write_train(
            advice_of({"bare": 1.0}),
            base,
            bare,
            tmp_path / "no.yaml",
            trained_on={"bare": "digits_ten"},
            **told,
        )
    assert not (tmp_path / "no.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [FIRST, FIRST]}, "the source 'digits_parity' is there twice"),
        ({"sources": ["digits_ten"]}, "the source 'digits_ten' is the target itself"),
        ({"sources": ["trec6"]}, "the target is of image and the source 'trec6' of text"),
        ({"sources": [{"task": FIRST, "weight": 0}]}, "weight"),
        ({"sources": [{"task": FIRST, "weigth": 1}]}, "unknown key 'weigth': did you mean 'weight'"),
        ({"first": {"patience": 2}}, "first: 'patience' is no option here"),
        ({"then": {"method": "lora"}}, "then: 'method' is no option here"),
        ({"then": {"stepps": 2}}, "unknown option 'stepps': did you mean 'steps'"),
        ({"labels": 3}, "labels"),
    ],
)
def test_impossible_plans_are_refused(base, tmp_path, changes, message):
    with pytest.raises(PlanError, match=message):
        taskloom.train_by_plan(plan_of(base, **changes), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_words_that_do_not_fit(base, tmp_path, cli):
    with pytest.raises(UnknownName):
        load_training_plan(plan_of(base, target="digits_tne"))
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_of(base)))
    for more in (["--base", base], ["--set", "steps=3"], ["--method", "full"], ["--seed", 0]):
        status, _, err = cli("train", path, "-o", tmp_path / "out", *more)
        assert status != 0
        assert f"is a plan of training, which says what {more[0]} would. Write it there" in err
    status, _, err = cli("train", "digits_ten", "-o", tmp_path / "out")
    assert status != 0
    assert "training on digits_ten needs a base. Give one with --base" in err
    other = tmp_path / "other.yaml"
    other.write_text("name: x\nsource: {}\n")
    assert not is_training_plan(other)
    assert not is_training_plan("digits_ten")
    assert not is_training_plan(tmp_path / "none.yaml")
