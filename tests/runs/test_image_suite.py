"""The image suite's promises about what its base, experts and scores see."""

import pytest

from taskloom.evaluation.task import get_task
from taskloom.runs.claims.suite import load_suite


@pytest.fixture(scope="module")
def suite():
    return load_suite("image")


def test_the_base_and_the_experts_see_different_parts_of_every_task(suite):
    built = suite.base.built
    assert built.pretrain == [item.task for item in suite.tasks]
    for name in built.pretrain:
        own = get_task(name).subset
        assert own.parts == built.subset.parts
        assert own.part != built.subset.part


def test_what_is_drawn_alike_is_held_back_alike(suite):
    groups = {"glyph": "family", "emoji": "name", "icon": "icon", "openclipart": "series"}
    for item in suite.tasks:
        family = item.task.split("_")[0]
        assert get_task(item.task).split.group == groups.get(family)


def test_every_task_has_the_size_that_the_base_reads(suite):
    build = suite.base.built.build
    assert (build["image_size"], build["channels"]) == (32, 3)
    for item in suite.tasks:
        task = get_task(item.task)
        assert task.modality == "image"
        assert task.source.get("size", 32) == 32
        assert task.packages


def test_the_first_eight_are_of_five_sources(suite):
    packages = {str(get_task(item.task).packages) for item in suite.tasks[:8]}
    assert len(packages) >= 5
    assert suite.counts == [2, 4, 6, 8, 12]
