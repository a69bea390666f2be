"""What a transfer plan may say, and what it is refused for before anything is read."""

from __future__ import annotations

import pytest
import yaml

from taskloom.errors import PlanError, UnknownName
from taskloom.runs.claims.suite import load_suite
from taskloom.runs.transfer.plan import load_transfer_plan, transfer_plan_names

from ..claims.suites import write_suite
from .conftest import STEPS, small


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("plan") / "tiny.yaml")


def refused(content) -> str:
    with pytest.raises(PlanError) as caught:
        load_transfer_plan(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_built_in_plans_load_and_the_text_plan_has_what_the_issue_asks_for():
    assert transfer_plan_names() == ["image", "text"]
    for name in transfer_plan_names():
        plan = load_transfer_plan(name)
        assert plan.name == name
        assert len(plan.seeds) >= 2
        assert plan.labels == 500
    text = load_transfer_plan("text")
    left_out = text.left_out()
    sources, targets = list(text.source_tasks), list(text.target_tasks)
    assert len(targets) >= 8
    for target in targets:
        assert len([s for s in sources if (s, target) not in left_out]) >= 12, target
    assert text.source_tasks.keys() >= {item.task for item in load_suite("text").tasks}
    assert "full" in text.ways


def test_every_image_task_is_tried_on_every_other():
    image = load_transfer_plan("image")
    assert set(image.left_out()) == {(name, name) for name in image.source_tasks}
    assert list(image.source_tasks) == list(image.target_tasks)


def test_a_source_with_some_of_the_targets_sentences_is_left_out_and_told():
    left_out = load_transfer_plan("text").left_out()
    assert left_out["subjectivity", "vader_movies"] == "both contain some of the same inputs"
    assert left_out["trec6", "trec6"] == "the source is the target itself"


def test_the_suite_keeps_what_decides_its_experts(suite):
    plan = load_transfer_plan(small(suite))
    assert [item.task for item in plan.suite.tasks] == ["digits_mod3", "digits_loop"]
    assert plan.suite.experts == load_suite(suite).experts
    assert plan.suite.limits == load_suite(suite).limits


def test_a_yaml_file_and_a_mapping_say_the_same(suite, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(small(suite)), encoding="utf-8")
    assert load_transfer_plan(path) == load_transfer_plan(small(suite))


def test_what_only_adds_rows_does_not_change_the_digest(suite):
    plan = load_transfer_plan(small(suite))
    for changes in ({"seeds": [0]}, {"targets": ["digits_ten"]}, {"title": "Other"}):
        assert load_transfer_plan(small(suite, **changes)).digest == plan.digest
    for changes in ({"labels": 44}, {"test": 60}):
        assert load_transfer_plan(small(suite, **changes)).digest != plan.digest
    slower = load_transfer_plan(small(suite, ways={"full": {**STEPS, "steps": 4}, "zero_shot": {}}))
    assert slower.digest == plan.digest
    assert slower.way_digest("full") != plan.way_digest("full")
    assert slower.way_digest("zero_shot") == plan.way_digest("zero_shot")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wayz": {}}, "unknown key 'wayz': did you mean 'ways'?"),
        ({"ways": {"fulll": {}}}, "ways are full, lora, merge, zero_shot, found 'fulll'"),
        ({"ways": {}}, "ways"),
        ({"ways": {"full": {"seed": 3}}}, "ways.full: 'seed' is decided by the measurement"),
        ({"ways": {"full": {"stepz": 3}}}, "unknown option 'stepz': did you mean 'steps'?"),
        ({"ways": {"merge": {}}}, "ways.merge needs full"),
        ({"ways": {"zero_shot": {"steps": 1}}}, "ways.zero_shot has no options"),
        ({"ways": {"full": {}, "merge": {"method": "fisher"}}}, "needs more than the weights"),
        ({"seeds": [1, 0]}, "ascending order"),
        ({"targets": ["digits_ten", "digits_ten"]}, "the target 'digits_ten' is there twice"),
        ({"targets": ["trec6"]}, "the sources are of image and the target 'trec6' is of text"),
        ({"targets": []}, "targets"),
        ({"labels": 1}, "labels"),
        ({"estimators": [{"logme": {"n": 1}}]}, "logme: unknown option 'n'"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(suite, changes, said):
    assert said in refused(small(suite, **changes))


def test_names_that_are_not_there_are_offered_the_nearest(suite):
    with pytest.raises(UnknownName, match="did you mean 'text'"):
        load_transfer_plan("texts")
    plan = small(suite)
    plan["sources"]["only"] = ["digits_parit"]
    with pytest.raises(UnknownName, match="did you mean 'digits_parity'"):
        load_transfer_plan(plan)
    with pytest.raises(UnknownName, match="did you mean 'digits_ten'"):
        load_transfer_plan(small(suite, targets=["digits_tenn"]))


def test_a_grid_without_a_cell_is_refused(suite):
    plan = small(suite, targets=["digits_parity"])
    plan["sources"] = {"suite": str(suite), "only": ["digits_parity"]}
    assert "no source may be tried on any target" in refused(plan)
