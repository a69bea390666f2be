"""Plain averaging is held against the merges of every plan, and the guard may be said beside a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import taskloom
from taskloom.errors import PlanError
from taskloom.merging.recipe import Recipe
from taskloom.runs.candidates import merged, singles
from taskloom.runs.pipeline import run, with_average
from taskloom.runs.verdict import decide
from taskloom.store.pool import open_pool

from .conftest import plan_with, write_plan


def pool_of(count):
    def weights():
        return {"w": torch.randn(4, 4)}

    return open_pool(weights(), [weights() for _ in range(count)], names=[f"e{i}" for i in range(count)])


def merges(pool, *methods, seed=0):
    return [
        merged(pool, Recipe.of(method, seed=seed, **options), name=name, title=name)
        for name, method, options in methods
    ]


def test_the_average_is_a_rival_where_it_is_not_a_merge():
    pool = pool_of(2)
    asked = merges(pool, ("ties", "ties", {}))
    *first, rival = with_average(pool, asked, 0)
    assert first == asked
    assert (rival.name, rival.title, rival.kind) == ("average", "Average (rival)", "merge")
    assert "not one of" in rival.record().composition
    middle = torch.stack([e.checkpoint.read("w") for e in pool.experts]).mean(0)
    assert torch.allclose(rival.weights()["w"], middle, atol=1e-6)


def test_it_may_win_and_is_never_the_best_merge():
    pool = pool_of(2)
    candidates = [*singles(pool), *with_average(pool, merges(pool, ("ties", "ties", {})), 0)]
    values = {"base": 0.5, "expert:e0": 0.6, "expert:e1": 0.5, "ties": 0.7, "average": 0.8}

    def decided(mode, **changes):
        found = decide("pool", candidates, {**values, **changes}, yardstick="score", mode=mode)
        return found.winner, found.best_merge, found.best_single

    assert decided("strict") == ("average", "ties", "average")
    assert decided("warn") == ("ties", "ties", "average")
    assert decided("strict", average=0.7)[0] == "average"  # the simpler of equals
    assert decided("strict", average=0.65) == ("ties", "ties", "average")
    assert decided("strict", average=0.55) == ("ties", "ties", "expert:e0")


def test_it_is_there_once():
    pool = pool_of(2)
    asked = merges(pool, ("mine", "average", {}), ("ties", "ties", {}))
    assert with_average(pool, asked, 0) == asked
    weighted = merges(pool, ("average", "average", {"weights": [1.0, 3.0]}))
    assert [c.name for c in with_average(pool, weighted, 0)] == ["average", "plain average"]


def test_without_merges_or_with_one_expert_there_is_none():
    one = pool_of(1)
    asked = merges(one, ("task_arithmetic", "task_arithmetic", {}))
    assert with_average(one, asked, 0) == asked
    assert with_average(pool_of(2), [], 0) == []


def test_a_plan_of_one_merge_is_held_against_the_average(tmp_path):
    path = write_plan(tmp_path / "plan.yaml", merge=["ties"], targets=[])
    result = run(path, output=tmp_path / "run", guard="warn")
    guard = result.guards[0]
    assert guard.best_merge == "ties"
    rivals = {margin.rival for margin in guard.margins}
    assert rivals == {"base", "expert:digits_parity", "expert:digits_mod3", "average"}
    titles = {model.name: model.title for model in result.models}
    assert titles["average"] == "Average (rival)"
    assert {s.split for s in result.scores if s.model == "average"} == {"validation", "test"}
    assert "one fine-tune of the base on all tasks of the pool was not tried" in guard.reason
    kept = yaml.safe_load((tmp_path / "run" / "plan.yaml").read_text())
    assert kept["guard"] == "warn"
    assert guard.winner == "ties"  # warn: the plan's merge, whatever it loses to
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "Average (rival)" in json.dumps(told["models"])


def test_a_guard_that_is_none_is_refused(tmp_path):
    with pytest.raises(PlanError, match="guard is 'lax'"):
        run(plan_with(), output=tmp_path / "run", guard="lax")


def test_the_guard_of_the_command_line_reaches_the_run(cli, monkeypatch):
    seen = {}

    def call(plan, **given):
        seen.update(given, plan=plan)
        raise PlanError("enough")

    monkeypatch.setattr(taskloom, "run", call)
    cli("run", "plan.yaml", "--guard", "warn")
    assert (seen["plan"], seen["guard"]) == (Path("plan.yaml"), "warn")
    cli("run", "plan.yaml")
    assert seen["guard"] is None
