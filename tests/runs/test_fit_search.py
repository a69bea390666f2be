"""taskloom fit with methods that try merges: budget, journal, preference, picture, written model."""

from __future__ import annotations

import json

import pytest
import torch

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import PlanError
from taskloom.runs.fit import fit
from taskloom.runs.fit_module import fit_by_name
from taskloom.runs.plan import Limits
from taskloom.store.open import open_checkpoint

from .conftest import MICRO

#: without a fine-tune to be held against
ALONE = {"limits": Limits(**MICRO["limits"]), "tuned": False}
TASKS = list(MICRO["pool"])
pytestmark = pytest.mark.usefixtures("sealed")


def test_a_scale_is_searched_written_drawn_and_resumed(base, named, tmp_path):
    def search(**more):
        return fit(
            "scale_search",
            TASKS,
            base,
            named,
            options={"levels": 3},
            **ALONE,
            examples=40,
            journal=tmp_path / "journal.jsonl",
            **more,
        )

    found = search(
        output=tmp_path / "out", trace=tmp_path / "trace.json", picture=tmp_path / "trace.png"
    )
    assert found.fitted.said["evaluations"] == "3, 3 of them measured now"
    wanted = taskloom.merge(base, named, found.fitted.method, **found.fitted.options)
    ours = open_checkpoint(tmp_path / "out")
    assert all(torch.equal(ours.read(name), tensor) for name, tensor in wanted.items())
    assert json.loads((tmp_path / "trace.json").read_text())["method"] == "task_arithmetic"
    assert (tmp_path / "trace.png").read_bytes()[:4] == b"\x89PNG"
    again = search(preference={TASKS[0]: 1.0})
    assert again.fitted.said["evaluations"] == "3, 0 of them measured now"
    for step in again.fitted.trace:
        assert step.loss == step.values[f"loss {TASKS[0]}"]


def test_by_default_the_journal_is_in_the_cache(base, named, tmp_path, monkeypatch):
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    for fresh in (3, 0):
        found = fit("greedy_soup", TASKS, base, named, **ALONE, examples=20, options={"ties": False})
        assert found.fitted.said["evaluations"] == f"3, {fresh} of them measured now"
    assert len([*(tmp_path / "cache" / "searches").iterdir()]) == 1


def test_the_verb(base, named, capsys):
    words = ["fit", "evolution", "--base", str(base), "--examples", "20", "--evaluations", "2"]
    words += ["--no-fine-tune"]
    for name, path in named.items():
        words += ["--expert", f"{name}={path}"]
    for task in TASKS:
        words += ["--task", task]
    assert invoke([*words, "--prefer", f"{TASKS[0]}=2"]) == 0
    out = capsys.readouterr().out
    assert "evaluations: 2, 2 of them measured now" in out
    assert "at best (2 steps" in out
    assert invoke([*words, "--prefer", "nothing=2"]) == 2
    assert "the preference names 'nothing'" in capsys.readouterr().err
    assert invoke([*words[:-4], "--task", TASKS[0], "--minutes", "0"]) == 2
    assert "too small for one evaluation" in capsys.readouterr().err


def test_a_fit_by_gradient_weighs_the_tasks_too(base, named, cli):
    words = ["fit", "adamerging", "--base", base, "--examples", 20, "--no-fine-tune"]
    words += ["--set", "steps=1", "--set", "passes=1"]
    words += [w for name, path in named.items() for w in ("--expert", f"{name}={path}")]
    words += [w for task in TASKS for w in ("--task", task)]
    status, out, err = cli(*words, "--prefer", f"{TASKS[0]}=3", "--prefer", f"{TASKS[1]}=1")
    assert status == 0, err
    assert f"preference: {TASKS[0]} 0.75, {TASKS[1]} 0.25" in out
    status, _, err = cli(*words, "--prefer", "nothing=2")
    assert status == 2
    assert "the preference names 'nothing'" in err


def test_a_module_weighs_no_tasks(base, named):
    with pytest.raises(PlanError, match="surgery is no fit of a recipe, and has no preference"):
        fit_by_name("surgery", TASKS, base, named, preference={TASKS[0]: 1.0})
