"""A run holds what a target reuses against the base fine-tuned on the same labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from taskloom.cli.output import print_run
from taskloom.errors import PlanError
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs import rival
from taskloom.runs.heads import fold_of
from taskloom.runs.pipeline import run
from taskloom.runs.plan import check_plan

from .conftest import plan_with

NAME = "fine-tune:digits_ten"


@pytest.fixture(scope="module")
def strong(tmp_path_factory):
    """A run in which a fine-tune with enough steps is better than all that can be reused."""
    folder = tmp_path_factory.mktemp("rival")
    plan = plan_with(
        pool=["digits_parity"],
        merge=[],
        targets=[{"task": "digits_ten", "labels": 120}],
        train={"steps": 8, "batch_size": 16, "learning_rate": 0.01},
        fine_tune={"steps": 40},
    )
    return folder, plan, run(plan, output=folder)


def test_it_is_tried_judged_and_told(strong):
    _, _, result = strong
    (model,) = [m for m in result.models if m.name == NAME]
    assert model.task == "digits_ten"
    assert model.title.startswith("Base fine-tuned on 120 labels of")
    held = {s.model: s for s in result.scores if s.split == "cross-validation"}
    test = {s.model: s for s in result.scores if s.split == "test" and s.task == "digits_ten"}
    assert held.keys() == test.keys() == {"base", "expert:digits_parity", NAME}
    assert held[NAME].n == 120
    assert not [s for s in result.scores if s.model == NAME and s.task != "digits_ten"]


def test_where_it_is_best_it_is_handed_over(strong):
    folder, _, result = strong
    guard = result.guards[1]
    held = {s.model: s.value for s in result.scores if s.split == "cross-validation"}
    assert guard.winner == max(held, key=held.get) == NAME
    (target,) = result.targets
    assert target.reuse == NAME
    assert target.sentence.startswith("For digits_ten take the base fine-tuned on 120 labels of")
    given = folder / "handover" / "digits_ten"
    data = load_task("digits_ten", n_labels=120, max_test=60)
    examples = data.test.open("a test")
    guesses = Head.load(given, "digits_ten").predict(Encoder.load(given).features(examples.inputs))
    assert float(np.mean(guesses == examples.labels)) == pytest.approx(target.value)
    assert NAME in (folder / "report.html").read_text()


def test_the_same_run_trains_nothing_again(strong, monkeypatch):
    folder, plan, result = strong

    def no(*args, **given):
        raise AssertionError("trained again")

    monkeypatch.setattr(rival, "train_expert", no)
    again = run(plan, output=folder)
    assert [s for s in again.scores if s.model == NAME] == [s for s in result.scores if s.model == NAME]
    assert any("fine-tunes" in each for each in again.lock.skipped)


def test_no_fold_is_trained_on_what_it_is_judged_by(tmp_path, monkeypatch):
    """Of every fold head and weights see the other labels alone."""
    seen = []
    real = rival.train_expert

    def spy(directory, head, train, validation, options, **given):
        seen.append((head, np.asarray(train[0]), np.asarray(validation[0]), options.steps))
        return real(directory, head, train, validation, options, **given)

    monkeypatch.setattr(rival, "train_expert", spy)
    plan = plan_with(pool=["digits_parity"], merge=[], fine_tune={"steps": 2})
    run(plan, output=tmp_path / "run")
    data = load_task("digits_ten", n_labels=40, max_test=60)
    inputs = np.concatenate([data.train.inputs, data.validation.inputs])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    fold = fold_of(labels, 5, 0)
    assert len(seen) == 5
    for number, (_, train, validation, steps) in enumerate(seen):
        assert np.array_equal(train, inputs[fold != number])
        assert np.array_equal(validation, train)
        assert steps == 2
    assert len({head.digest() for head, *_ in seen}) == 5


def test_a_plan_may_leave_it_out_and_says_so(micro):
    result = micro.result
    assert NAME not in {m.name for m in result.models}
    assert result.guards[1].reason.endswith("was not tried: the plan says fine_tune: false")
    card = (micro.folder / "handover" / "digits_ten" / "README.md").read_text()
    assert "fine-tuning the base on these labels was not tried" in card
    assert result.guards[0].reason.endswith(
        "; one fine-tune of the base on all tasks of the pool was not tried: the experts are its "
        "fine-tunes, each on one task"
    )


@pytest.mark.parametrize(("given", "steps"), [({}, 30), ({"fine_tune": {"steps": 7}}, 7)])
def test_how_long_it_trains(given, steps):
    plan = check_plan(plan_with(**{"fine_tune": True, **given}), "a plan")
    few = rival._Few(_Reader(), plan, None, None, None)
    assert few.options(32).steps == steps
    assert few.options(32).learning_rate == plan.train["learning_rate"]


class _Reader:
    class options:  # noqa: N801
        max_length = 24


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"stepps": 3}, "sometimes"])
def test_what_is_no_setting_is_refused(wrong):
    with pytest.raises(PlanError, match="fine_tune"):
        check_plan(plan_with(fine_tune=wrong), "a plan")


def test_a_class_that_only_a_fold_has_is_no_end(tmp_path):
    """Where the others are of one class, that is what is said."""
    few = rival._Few(_Reader(), None, None, _Labels(), None)
    found = few.predicted(np.array([True, True, False]), np.array([False, False, True]))
    assert found.tolist() == [0]


class _Labels:
    labels = np.array([0, 0, 1])


def test_the_record_is_json(strong):
    folder, _, result = strong
    kept = json.loads((folder / "result.json").read_text())
    assert [m["name"] for m in kept["models"]] == [m.name for m in result.models]


def test_the_printed_means_leave_out_what_was_made_for_a_target(strong, capsys):
    _, _, result = strong
    print_run(result)
    _, table = capsys.readouterr().out.split("Mean test score")
    title = next(model.title for model in result.models if model.name == NAME)
    assert "Base " in table
    assert title not in table
