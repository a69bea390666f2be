"""taskloom auto on a pool of which it is known what helps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import taskloom
from taskloom.errors import CheckpointError, DataError, PlanError, UnknownName
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.auto import api, climb, ending
from tiny_models import tiny_bert

from .conftest import LIMITS, write_task


def run(world, task, output, **more):
    given = {"limits": LIMITS, "methods": ["task_arithmetic"], "output": output}
    return taskloom.auto(
        world.tasks[task], world.base, world.experts, **{**given, "minutes": 20.0, **more}
    )


def test_a_merge_that_knows_all_words_is_found_and_handed_over(world, tmp_path):
    found = run(world, "four", tmp_path / "out")
    tests = {s.model: s.value for s in found.tests}
    expert = max(found.row(name).last.value for name in world.experts)
    assert found.row(found.winner).kind in ("merge", "composition")
    assert tests[found.winner] > 0.9 > expert
    assert found.gain[1] > 0
    assert found.regime == "held out"
    assert found.sizes == {"to fit on": 96, "to choose by": 36, "to check with": 36, "test": 120}
    data = load_task(world.tasks["four"], max_train=96, max_validation=72, max_test=120)
    features = Encoder.load(found.model, max_length=64).features(data.test.open("a test").inputs)
    guesses = Head.load(found.model, "four").predict(features)
    again = load_task(world.tasks["four"], max_train=96, max_validation=72, max_test=120)
    value = float(np.mean(guesses == again.test.open("a test").labels))
    assert value == pytest.approx(tests[found.winner])
    kept = json.loads((tmp_path / "out" / "result.json").read_text())
    assert kept["winner"] == found.winner
    assert [row["name"] for row in kept["rows"]] == [row.name for row in found.rows]
    page = (tmp_path / "out" / "report.html").read_text()
    assert found.title in page
    assert (tmp_path / "out" / "rungs.svg").read_text().startswith("<svg")
    assert found.sentence in (found.model / "README.md").read_text()


def test_the_guard_hands_over_an_expert_where_no_merge_does_better(world, tmp_path):
    found = run(world, "two", tmp_path / "out")
    assert found.winner == "films"
    assert found.verdict.winner == "films"
    assert found.ranked[0] == "films"
    assert found.row("films").check.n == found.row("base").check.n == 36
    assert {"base", "films", "average"} <= set(found.verdict.values)


def test_few_labels_are_cross_validated_and_rows_that_check_chose_nothing(world, tmp_path, monkeypatch):
    chosen, checked = set(), set()

    def spy(module, seen):
        real = module.attempt

        def attempt(bench, member, sittings, share):
            for sitting in sittings:
                seen.update(sitting.judged.tolist())
                assert not set(sitting.seen.tolist()) & set(sitting.judged.tolist())
            return real(bench, member, sittings, share)

        monkeypatch.setattr(module, "attempt", attempt)

    spy(climb, chosen)
    spy(ending, checked)
    found = run(world, "small", tmp_path / "out", labels=24)
    assert chosen
    assert checked
    assert not chosen & checked
    assert found.regime == "cross-validation"
    assert found.sizes["to choose by"] + found.sizes["to check with"] == 24
    assert found.verdict.split == "cross-validation"
    assert found.verdict.folds == 3
    assert found.gain[0] > 0.2


def values(found):
    return [[(p.share, p.value, p.low, p.high) for p in row.points] for row in found.rows]


def test_without_labels_the_simplest_of_the_surest_is_taken(world, headed, tmp_path, monkeypatch):
    given = {"labels": 0, "methods": ["task_arithmetic", "adamerging"]}
    found = run(world, "two", tmp_path / "a", **given)
    assert found.regime == "unlabeled"
    assert found.verdict is None
    assert found.regret_bound is None
    assert found.winner == "films"
    assert "was not measured, since no labels were used" in found.reason
    assert found.row("fit adamerging").last is not None
    assert {row.kind for row in found.rows}.isdisjoint({"fine-tune"})

    real = api.load_task

    def flipped(*words, **more):
        data = real(*words, **more)
        train, validation = (
            replace(part, labels=1 - part.labels) for part in (data.train, data.validation)
        )
        return replace(data, train=train, validation=validation)

    monkeypatch.setattr(api, "load_task", flipped)
    again = run(world, "two", tmp_path / "b", **given)
    assert values(found) == values(again)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"minutes": 0}, PlanError, "too small for one evaluation"),
        ({"minutes": float("nan")}, PlanError, "minutes"),
        ({"methods": ["tise"]}, UnknownName, "did you mean 'ties'"),
        ({"methods": ["fisher"]}, PlanError, "fisher cannot be tried on 3 experts"),
        ({"methods": ["tall_masks"]}, PlanError, "no parts per task"),
        ({"labels": 0}, DataError, "no expert has one"),
        ({"labels": -1}, PlanError, "labels is -1"),
        ({"labels": 3}, DataError, "3 labels are too few"),
        ({"head": "somewhere"}, PlanError, "a head is given, and labels to fit one"),
        ({"eta": 1}, PlanError, "eta is 1"),
        ({"guard": "lax"}, PlanError, "guard is 'lax'"),
        ({"tune": {"stepps": 1}}, PlanError, "did you mean 'steps'"),
    ],
)
def test_bad_input_is_refused_by_name(world, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(world, "four", tmp_path / "out", **changes)


def test_a_pool_that_is_none_is_refused(world, tmp_path):
    def refused(experts, message, error=CheckpointError, base=world.base):
        with pytest.raises(error, match=message):
            taskloom.auto(world.tasks["four"], base, experts, output=tmp_path / "o", limits=LIMITS)

    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "model.safetensors").write_bytes(b"\x10" * 40)
    refused([str(garbage)], "garbage")
    deeper = tiny_bert(tmp_path / "deeper", layers=3)
    refused({"films": world.experts["films"], "deep": str(deeper)}, "expert 'deep'")
    refused({"average": world.experts["films"]}, "means another model here", PlanError)
    refused([], "the pool is empty")


def test_a_target_without_inputs_or_with_other_classes_is_refused(world, headed, tmp_path):
    empty = write_task(tmp_path, "empty", (0, 1), 2)
    with pytest.raises(DataError, match=r"split is empty|holds no rows|one class"):
        taskloom.auto(empty, world.base, world.experts, output=tmp_path / "o", limits=LIMITS)
    other = write_task(tmp_path, "two", (2, 3), 460)
    with pytest.raises(DataError, match=r"classes film, court.*has ball, team"):
        taskloom.auto(
            other, world.base, world.experts, labels=0, head=headed, output=tmp_path / "o", limits=LIMITS
        )
