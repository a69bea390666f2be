"""A base that is pretrained on several tasks at once."""

import json

import numpy as np

from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task
from taskloom.learn.data import data_digest
from taskloom.learn.pretrain import Corpus, pool_corpora
from taskloom.models.head import Head
from taskloom.runs.base import base_directory
from taskloom.runs.plan import load_plan

from .conftest import MICRO, plan_with

TASKS = ["digits_prime", "digits_mod3"]


def pooled_plan(**changes):
    built = {**MICRO["base"]["built"], "pretrain": TASKS, **changes}
    plan, _ = load_plan(plan_with(base={"built": built}))
    return plan


def provenance(directory):
    return json.loads((directory / "taskloom.json").read_text())


def test_the_corpus_is_that_part_of_every_task_and_nothing_else(cache):
    directory = base_directory(pooled_plan(limits={"train": 30, "validation": 20, "test": 2}))
    assert directory.parent == cache / "bases"
    head = Head.load(directory, "pooled")
    names = [get_task(task).label_names for task in TASKS]
    assert head.labels == tuple(
        f"{task}/{label}" for task, labels in zip(TASKS, names, strict=True) for label in labels
    )
    parts = []
    for task, labels in zip(TASKS, names, strict=True):
        data = load_task(get_task(task).with_subset(3, 0), seed=0, max_train=30, max_validation=20)
        train = (data.train.inputs, data.train.labels)
        parts.append(Corpus(task, train, (data.validation.inputs, data.validation.labels), labels))
    wanted = pool_corpora(parts)
    assert len(wanted.train[1]) == 60
    assert provenance(directory)["inputs"]["train"] == data_digest(wanted.train)
    assert provenance(directory)["inputs"]["validation"] == data_digest(wanted.validation)
    assert base_directory(pooled_plan(limits={"train": 30, "validation": 20, "test": 2})) == directory


def test_no_test_image_of_a_pretraining_task_is_pretrained_on():
    for name in TASKS:
        data = load_task(get_task(name).with_subset(3, 0))
        seen = {image.tobytes() for image in (*data.train.inputs, *data.validation.inputs)}
        held = load_task(name)
        assert not seen & {image.tobytes() for image in held.test.open("this check").inputs}


def test_two_trainings_give_the_same_bytes(tmp_path, monkeypatch):
    weights = []
    for place in ("one", "two"):
        monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / place))
        directory = base_directory(pooled_plan())
        weights.append((directory / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_one_task_keeps_its_own_name_and_classes(cache):
    head = Head.load(base_directory(pooled_plan(pretrain="digits_prime")), "digits_prime")
    assert head.labels == get_task("digits_prime").label_names
    assert np.isfinite(head.weight).all()
