"""What fits may see: folds of few labels are sealed from whatever is judged on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.progress import silent
from taskloom.runs.desk import open_desk
from taskloom.runs.plan import Limits
from taskloom.runs.seen import FEW, FOLDS, deal, drawn, few_shot
from taskloom.store.pool import Pool, open_pool

from .conftest import MICRO

TASKS = list(MICRO["pool"])
pytestmark = pytest.mark.usefixtures("sealed")


@pytest.fixture
def at(base, named):
    desk = open_desk(base, seed=0, progress=silent)
    return desk, open_pool(base, list(named.values()), names=list(named))


def contents(examples):
    return {image.tobytes() for image in examples.inputs}


def test_with_labels_enough_validation_judges_and_training_examples_are_seen(at):
    desk, _ = at
    loaded = [desk.load(task, Limits(train=60, validation=40)) for task in TASKS]
    assert not few_shot(loaded)
    dealt = deal(*at, loaded, examples=30)
    assert not dealt.folded
    assert dealt.folds == 0
    (held,) = dealt.held
    assert held.seen is dealt.final
    assert held.seen.number == 0
    for data in loaded:
        shots = held.seen.tasks[data.task.name]
        assert held.examples[data.task.name] is data.validation
        assert (len(shots.train), len(shots.check)) == (30, 30)
        assert not contents(shots.train) & contents(shots.check)
        assert contents(shots.train) | contents(shots.check) <= contents(data.train)
        assert shots.head.digest() == desk.head(data).digest()


def test_a_fold_is_never_seen_by_what_is_judged_on_it(at):
    desk, _ = at
    loaded = [desk.load(task, Limits(), labels=30) for task in TASKS]
    assert few_shot(loaded)
    dealt = deal(*at, loaded)
    assert dealt.folded
    assert dealt.folds == len(dealt.held) == FOLDS
    for data in loaded:
        name = data.task.name
        every = contents(data.train) | contents(data.validation)
        assert contents(dealt.final.tasks[name].train) == every
        judged = [contents(held.examples[name]) for held in dealt.held]
        assert set().union(*judged) == every
        assert sum(len(each) for each in judged) == len(every)
        for held, inside in zip(dealt.held, judged, strict=True):
            shots = held.seen.tasks[name]
            assert contents(shots.train) == every - inside
            assert contents(shots.check) <= every - inside
            batches = held.seen.problem({}).batches[name]
            assert batches.count == len(every - inside)


def test_heads_are_fitted_on_what_a_fold_sees(at):
    desk, _ = at
    data = desk.load(TASKS[0], Limits(), labels=20)
    encoder = desk.reader.encoder
    for held in deal(*at, [data]).held:
        shots = held.seen.tasks[TASKS[0]]
        features = encoder.features(shots.train.inputs)
        names = data.task.label_names
        wanted = fit_head(features, shots.train.labels, names, task=TASKS[0], seed=0)
        np.testing.assert_allclose(shots.head.weight, wanted.weight, rtol=1e-3, atol=1e-4)
        full = desk.head(data)
        assert shots.head.digest() != full.digest()


def test_every_fold_sees_every_class(at):
    data = load_task("digits_ten", seed=1, n_labels=40)
    for held in deal(*at, [data]).held:
        labels = held.seen.tasks["digits_ten"].train.labels
        assert set(labels) == set(data.train.labels) | set(data.validation.labels)


def test_one_label_of_a_class_cannot_be_judged(at):
    desk, _ = at
    data = desk.load(TASKS[0], Limits(), labels=16)
    first = np.flatnonzero(data.train.labels == 0)[:1]
    others = np.flatnonzero(data.train.labels == 1)
    alone = replace(
        data,
        train=data.train.take(np.r_[first, others]),
        validation=data.validation.take(np.flatnonzero(data.validation.labels == 1)),
    )
    with pytest.raises(DataError, match=r"the class 'even' has 1 labelled example.*needs 2 of every"):
        deal(*at, [alone])


def test_the_threshold():
    def task(train, validation):
        data = load_task(TASKS[0], max_train=4, max_validation=4, max_test=4)
        some = data.train.inputs[:1]
        half = [np.arange(n) % 2 for n in (train, validation)]
        parts = [Examples(np.repeat(some, len(labels), 0), labels) for labels in half]
        return replace(data, train=parts[0], validation=parts[1])

    assert few_shot([task(2 * FEW - 5, 4)])
    assert not few_shot([task(2 * FEW - 4, 4)])
    assert few_shot([task(200, 40), task(10, 4)])


def test_drawing_keeps_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    chosen = drawn(labels, 20, 3, task="t")
    assert np.bincount(labels[chosen]).tolist() == [16, 3, 1]
    assert (chosen == drawn(labels, 20, 3, task="t")).all()
    assert (chosen != drawn(labels, 20, 4, task="t")).any()
    assert drawn(labels, 100, 0, task="t").all()
    with pytest.raises(DataError, match="task 't': 2 examples cannot have one of each of the 3 classes"):
        drawn(labels, 2, 0, task="t")


def test_an_expert_that_may_have_seen_what_is_judged_is_told(at):
    desk, pool = at
    other = pool.experts[0]
    few = [desk.load(task, Limits(), labels=30) for task in TASKS]
    many = [desk.load(task, Limits(train=60, validation=40)) for task in TASKS]
    strangers = Pool(pool.base, (replace(other, name="one", task=None),))
    named = Pool(pool.base, (replace(other, name=TASKS[0], task=None),))
    trained = Pool(pool.base, (replace(other, name="one", task=TASKS[0]),))
    for own in (named, trained):
        told = deal(desk, own, few).caution(TASKS)
        assert told.startswith(
            f"the experts of {TASKS[0]} may have been trained on labels that are judged"
        )
        assert deal(desk, own, few).caution([TASKS[1]]) == ""
        assert deal(desk, own, many).caution(TASKS) == ""
    assert deal(desk, strangers, few).caution(TASKS) == ""
