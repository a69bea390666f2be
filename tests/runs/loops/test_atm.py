"""ATM: golden numbers of the card, what it is equal to, and that it beats a one-shot merge."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from taskloom import registry
from taskloom.errors import IntegrityError, NumericalError, OutputError, PlanError
from taskloom.runs.loops.atm import atm
from taskloom.runs.loops.journal import Journal

from .toy import BASE, classify, facts, hill, play, read_model, setting, write_model

TOY_C = {task: classify(task) for task in ("first", "second")}


def joint_loss(w):
    return float(sum(loss(w) for loss in TOY_C.values()))


def test_golden_one_step_of_every_task_summed(tmp_path):
    on = setting(tmp_path, TOY_C, BASE)
    tuned = {t: on.shop.tune(on.start, {t: 1.0}, steps=1, seed=0) for t in TOY_C}
    wanted = {
        "first": [[0.196852, 0.014406], [-0.196852, -0.014406]],
        "second": [[-0.018766, 0.282991], [0.018766, -0.282991]],
    }
    for task, each in tuned.items():
        assert (read_model(each.path) - BASE).numpy() == pytest.approx(np.array(wanted[task]), abs=1e-6)
    plan = atm(on, rounds=1, steps=1, recipe="task_arithmetic", options={"scale": 1.0})
    _, models = play(tmp_path, on, plan)
    golden = np.array([[0.428086, 0.172398], [-0.178086, -0.172398]])
    assert models[1].numpy() == pytest.approx(golden, abs=1e-6)


def test_one_full_batch_step_summed_is_multi_task_gradient_descent(tmp_path):
    on = setting(tmp_path, TOY_C, BASE)
    plan = atm(on, rounds=4, steps=1, recipe="task_arithmetic", options={"scale": 1.0})
    _, models = play(tmp_path, on, plan)
    w = BASE.numpy().copy()
    inputs = {
        "first": np.array([[1.0, 0.25], [-0.75, 0.125]]),
        "second": np.array([[0.125, 1.0], [0.25, -1.0]]),
    }
    for number in range(1, 5):  # the rule once more: softmax regression by hand
        slope = np.zeros_like(w)
        for x in inputs.values():
            logits = x @ w.T
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            slope += (p - np.eye(2)).T @ x / 2
        w -= 0.5 * slope
        assert models[number].numpy() == pytest.approx(w, abs=1e-6)


def test_golden_three_rounds_of_the_mean(tmp_path):
    on = setting(tmp_path, TOY_C, BASE)
    rounds, models = play(tmp_path, on, atm(on, rounds=3, steps=1))
    assert models[1].numpy() == pytest.approx(
        np.array([[0.339043, 0.023699], [-0.089043, -0.023699]]), abs=1e-6
    )
    losses = [joint_loss(models[n]) for n in (1, 2, 3)]
    assert losses == pytest.approx([1.206244, 1.032565, 0.897837], abs=1e-6)
    assert [each.number for each in rounds] == [0, 1, 2, 3]
    assert [each.steps for each in rounds] == [0, 2, 2, 2]
    assert [entry["name"] for entry in rounds[1].merged] == ["first", "second"]
    assert [entry["weight"] for entry in rounds[1].merged] == [0.5, 0.5]


#: conflicting tasks: where one is steep the other is flat, so that the mean of their optima is poor
CONFLICT = {"steep": hill([1.0, -1.0], [1.0, 0.05]), "flat": hill([-1.0, 1.0], [0.05, 1.0])}


def test_on_conflicting_tasks_many_rounds_beat_one_shot_and_approach_joint_training(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0], rate=0.2)
    plan = atm(on, rounds=10, steps=6)
    rounds, _ = play(tmp_path, on, plan)
    rivals = {name: make(None) for name, make in plan.compared.items()}
    loss = {name: 1 - each.reading.mean for name, each in rivals.items()}
    mine = 1 - rounds[-1].mean
    # at equal cost: 60 steps on each of two tasks
    assert rivals["joint"].steps == rivals["one-shot"].steps == sum(r.steps for r in rounds) == 120
    # per coordinate the least sum is a1 a2 / (a1 + a2) * distance^2 / 2; two coordinates, two tasks
    best = 0.05 / 1.05 * 2**2 / 2
    assert loss["joint"] == pytest.approx(best, rel=0.15)
    assert mine < 0.6 * loss["one-shot"]
    assert mine - loss["joint"] < 0.1 * (loss["one-shot"] - loss["joint"])
    assert loss["start"] > mine


def test_more_and_shorter_rounds_are_better_at_equal_cost(tmp_path):
    means = []
    for count in (1, 2, 6):
        on = setting(tmp_path / str(count), CONFLICT, [0.0, 0.0], rate=0.2)
        rounds, _ = play(tmp_path / str(count), on, atm(on, rounds=count, steps=24 // count))
        means.append(rounds[-1].mean)
    assert means[0] < means[1] < means[2]


def test_a_round_of_one_task_moves_by_its_recipe(tmp_path):
    """Three tasks, TIES as the recipe: what disagrees with the elected sign stays out."""
    losses = {"a": hill([1.0, 1.0]), "b": hill([1.0, -0.5]), "c": hill([1.0, 0.1])}
    on = setting(tmp_path, losses, [0.0, 0.0], rate=1.0)
    plan = atm(on, rounds=1, steps=1, recipe="ties", options={"density": 1.0, "scale": 1.0})
    _, models = play(tmp_path, on, plan)
    assert models[1].tolist() == pytest.approx([1.0, 0.55])  # b is left out of the second entry


def test_a_loop_that_was_interrupted_ends_like_one_that_was_not(tmp_path):
    whole = setting(tmp_path / "whole", CONFLICT, [0.0, 0.0])
    wanted, models = play(tmp_path / "whole", whole, atm(whole, rounds=3, steps=2))
    for done in (0, 3, 4):  # before the first of a round and amid it
        there = tmp_path / str(done)
        on = setting(there, CONFLICT, [0.0, 0.0], fail_after=done)
        with pytest.raises(KeyboardInterrupt):
            play(there, on, atm(on, rounds=3, steps=2))
        on.shop.fail_after = None
        found, again = play(there, on, atm(on, rounds=3, steps=2))
        assert facts(found) == facts(wanted)
        assert torch.equal(again[3], models[3])
        assert len(on.shop.tuned) == 6  # nothing was tuned twice


def test_a_finished_round_is_never_done_again_and_more_rounds_go_on(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0])
    first, _ = play(tmp_path, on, atm(on, rounds=2, steps=2))
    assert len(on.shop.tuned) == 4
    again, _ = play(tmp_path, on, atm(on, rounds=2, steps=2))
    assert again == first
    assert len(on.shop.tuned) == 4
    more, _ = play(tmp_path, on, atm(on, rounds=3, steps=2))
    assert more[:3] == first
    assert len(on.shop.tuned) == 6


def test_a_merge_without_its_record_is_made_again(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0])
    wanted, _ = play(tmp_path, on, atm(on, rounds=2, steps=2))
    (tmp_path / "loop" / "round-002.json").unlink()
    write_model(tmp_path / "loop" / "round-002", [9.0, 9.0])
    found, models = play(tmp_path, on, atm(on, rounds=2, steps=2))
    assert facts(found) == facts(wanted)
    assert models[2].abs().max() < 2


def test_only_the_last_model_is_kept_unless_asked(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0])
    _, models = play(tmp_path, on, atm(on, rounds=3, steps=2), keep=False)
    assert sorted(models) == [0, 3]
    with pytest.raises(PlanError, match="round 2 is long done, and its model was not kept"):
        play(tmp_path, on, atm(on, rounds=2, steps=2), keep=False)


def test_a_kept_model_that_was_changed_is_refused(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0])
    play(tmp_path, on, atm(on, rounds=2, steps=2))
    write_model(tmp_path / "loop" / "round-002", [9.0, 9.0])
    with pytest.raises(IntegrityError, match="expected the model of round 2"):
        play(tmp_path, on, atm(on, rounds=3, steps=2))


def test_a_loss_that_is_not_finite_names_the_round(tmp_path):
    on = setting(tmp_path, CONFLICT, [0.0, 0.0])
    tune, count = on.shop.tune, []

    def broken(*words, **more):
        count.append(words)
        if len(count) == 4:
            raise NumericalError("task 'flat': expected a finite loss in step 1 of 2, found loss nan")
        return tune(*words, **more)

    on.shop.tune = broken
    with pytest.raises(NumericalError, match=r"round 2 of 3: task 'flat'.* the 1 rounds before"):
        play(tmp_path, on, atm(on, rounds=3, steps=2))
    assert json.loads((tmp_path / "loop" / "round-001.json").read_text())["number"] == 1


def test_two_processes_do_not_share_a_folder(tmp_path):
    journal = Journal(tmp_path / "loop", tmp_path)
    said = "another process carries out the same loop"
    with journal.held(), pytest.raises(OutputError, match=said), journal.held():
        pass


def test_options_are_checked_by_the_registry():
    entry = registry.get("loop", "atm")
    assert entry.validate({"rounds": 3})["rounds"] == 3
    with pytest.raises(PlanError, match="did you mean 'rounds'"):
        entry.validate({"round": 3})
    with pytest.raises(PlanError, match="greater than or equal to 1"):
        entry.validate({"steps": 0})
