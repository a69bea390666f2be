"""The chooser's rule against what every method is registered to need."""

from __future__ import annotations

import itertools

import pytest

from taskloom import registry
from taskloom.runs.claims.suitable import EXPERTS, HAVE, data_needed, keeps_parts, suitable


def names(have, experts, **more):
    return {entry.name for entry in suitable(have, experts, **more)}


def test_what_is_needed_follows_from_the_registry():
    found = {entry.name: data_needed(entry) for entry in registry.entries("merge")}
    assert {name for name, need in found.items() if need == "unlabeled"} == {
        "coefficients",
        "fisher",
        "regmean",
    }
    assert {name for name, need in found.items() if need == "labels"} == {
        "graft",
        "greedy_soup",
        "lorahub",
        "rewarded_soup",
        "sens_merging",
    }


def test_every_statistic_says_what_it_needs():
    for entry in registry.entries("statistic"):
        assert set(entry.needs) & {"unlabeled inputs", "labels"}, entry.name


def test_methods_with_parts_are_those_that_make_a_model_for_a_task():
    found = {entry.name for entry in registry.entries("merge") if keeps_parts(entry)}
    assert found == {"emr", "tall_masks", "twin_merging"}


@pytest.mark.parametrize(("experts", "parts"), [*itertools.product(EXPERTS, (True, False))])
def test_more_data_and_parts_only_add(experts, parts):
    nothing, unlabeled, labels = (names(have, experts, parts=parts) for have in HAVE)
    assert nothing <= unlabeled <= labels
    assert names("labels", experts, parts=False) <= names("labels", experts, parts=True)


def test_adapters_only_methods_are_for_adapters():
    assert names("labels", "lora") - names("labels", "full") == {"copa_merging", "lorahub"}
    assert names("labels", "full") <= names("labels", "lora")


def test_models_of_one_task():
    found = names("labels", "one task")
    assert {"average", "greedy_soup", "model_stock", "checkpoint_average"} <= found
    assert not found & {"ties", "tsv_merge", "emr", "slerp"}


def test_parts_are_left_out_when_they_may_not_be_kept():
    assert names("nothing", "full") - names("nothing", "full", parts=False) == {
        "emr",
        "tall_masks",
        "twin_merging",
    }


def test_pairs_edits_and_rewards_are_for_nobody_who_merges_tasks():
    every = set().union(*(names("labels", experts) for experts in EXPERTS))
    rest = {entry.name for entry in registry.entries("merge")} - every
    assert rest == {
        "arcee_fusion",
        "nearswap",
        "nuslerp",
        "rewarded_soup",
        "slerp",
        "task_analogy",
        "task_negation",
    }
