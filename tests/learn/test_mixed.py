"""Training on a mixture of tasks: turns, what is kept, and that it is train_expert for one task."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import taskloom.learn.mixed as mixed
from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.learn.head import fit_head
from taskloom.learn.mixed import Part, deal, train_mixture
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import train_expert
from taskloom.models.encoder import Encoder
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from tiny_models import texts, tiny_bert

TRAIN, VALIDATION = texts(24, seed=1), texts(12, seed=2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"), layers=1)


@pytest.fixture(scope="module")
def parts(bert):
    """A task and its opposite: what one learns the other unlearns."""
    encoder = Encoder.load(bert)
    features = encoder.features(TRAIN[0])
    found = []
    for name, flip in (("kind", 0), ("unkind", 1)):
        head = fit_head(features, TRAIN[1], ("court", "sport"), task=name)
        data = [(inputs, labels ^ flip) for inputs, labels in (TRAIN, VALIDATION)]
        found.append(Part(head, *data))
    return found


def options(**changes):
    return TrainOptions(**({"steps": 6, "batch_size": 8, "learning_rate": 3e-3} | changes))


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "shares", [[1.0, 1.0], [3.0, 1.0], [0.5, 0.25, 0.25], [1.0, 1 / 3, 1 / 3, 1 / 3]]
)
def test_every_task_has_its_share_after_every_step(shares):
    order = deal(shares, 200)
    share = np.array(shares) / np.sum(shares)
    for step in range(1, 201):
        counts = np.bincount(order[:step], minlength=len(shares))
        assert np.abs(counts - share * step).max() < 1.0 + 1e-9
    assert np.array_equal(order[:50], deal(shares, 50))  # more steps begin like fewer


def test_one_task_is_what_train_expert_does(bert, parts, tmp_path):
    part = parts[0]
    chosen = options(evaluate_every=2)
    mixture = train_mixture(bert, [part], chosen, cache=tmp_path)
    expert = train_expert(bert, part.head, part.train, part.validation, chosen, cache=tmp_path)
    assert same(weights(mixture.directory), weights(expert.directory))
    assert mixture.best == expert.validation
    assert mixture.steps == {"kind": 6}


def test_the_same_mixture_is_found_again_and_another_is_not(bert, parts, tmp_path):
    first = train_mixture(bert, parts, options(), cache=tmp_path)
    again = train_mixture(bert, parts, options(), cache=tmp_path)
    assert (first.cached, again.cached) == (False, True)
    assert (again.directory, again.best, again.steps) == (first.directory, first.best, first.steps)
    heavier = [Part(parts[0].head, parts[0].train, parts[0].validation, weight=2.0), parts[1]]
    other = train_mixture(bert, heavier, options(), cache=tmp_path)
    assert other.directory != first.directory
    assert (first.steps, other.steps) == ({"kind": 3, "unkind": 3}, {"kind": 4, "unkind": 2})
    record = json.loads((first.directory / "taskloom.json").read_text())
    assert record["kind"] == "mixture"
    assert SafetensorsCheckpoint(first.directory).tensors == SafetensorsCheckpoint(bert).tensors


def test_an_interrupted_mixture_ends_like_one_that_was_not(bert, parts, tmp_path, monkeypatch):
    whole = train_mixture(bert, parts, options(save_every=2), cache=tmp_path / "whole")
    take, taken = mixed.take_step, []

    def stops(*words):
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(words[-2])
        return take(*words)

    monkeypatch.setattr(mixed, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train_mixture(bert, parts, options(save_every=2), cache=tmp_path / "again")
    taken.clear()
    found = train_mixture(bert, parts, options(save_every=2), cache=tmp_path / "again")
    assert taken == [4, 5]  # from the state after four steps
    assert same(weights(found.directory), weights(whole.directory))
    assert found.best == whole.best


def test_only_tasks_that_judge_decide_what_is_kept(bert, parts, tmp_path):
    """The opposite task gets nearly all steps: its judge keeps late weights, the other's early ones."""

    def judged(judge):
        found = [
            Part(each.head, each.train, each.validation, weight, each.head.task == judge)
            for each, weight in zip(parts, (0.1, 0.9), strict=True)
        ]
        chosen = options(steps=20, evaluate_every=1, learning_rate=1e-2, warmup=0)
        return train_mixture(bert, found, chosen, cache=tmp_path).best

    mine, theirs = judged("kind"), judged("unkind")
    assert mine.step < theirs.step
    assert mine.accuracy >= 0.5 < theirs.accuracy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: [], "needs a task that judges it"),
        (lambda p: [Part(p[0].head, p[0].train, p[0].validation, judges=False)], "a task that judges"),
        (lambda p: [p[0], p[0]], "named twice"),
        (lambda p: [Part(p[0].head, p[0].train, p[0].validation, weight=0.0)], "weight 0.0"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(bert, parts, tmp_path, change, said):
    with pytest.raises(PlanError, match=said):
        train_mixture(bert, change(parts), options(), cache=tmp_path)


def test_bad_options_data_and_losses(bert, parts, tmp_path):
    with pytest.raises(PlanError, match="for a number of steps under frozen heads"):
        train_mixture(bert, parts, options(steps=None), cache=tmp_path)
    with pytest.raises(PlanError, match="patience"):
        train_mixture(bert, parts, options(patience=1), cache=tmp_path)
    empty = Part(parts[0].head, ([], []), VALIDATION)
    with pytest.raises(DataError, match="train"):
        train_mixture(bert, [empty], options(), cache=tmp_path)
    with pytest.raises(NumericalError, match=r"task '(un)?kind': expected a finite loss in step"):
        train_mixture(bert, parts, options(learning_rate=1e30), cache=tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".partial")]
