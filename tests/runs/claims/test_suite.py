"""What a suite may say, and that one clear error answers everything else."""

from __future__ import annotations

import pytest
import yaml

from taskloom.errors import PlanError, UnknownName
from taskloom.evaluation.task import check_overlaps, get_task
from taskloom.learn.options import TrainOptions
from taskloom.runs.claims.suite import KINDS, SCALES, load_suite, suite_names

from .suites import TINY, write_suite


@pytest.mark.parametrize("name", suite_names())
def test_built_in_suites_load_and_keep_tasks_apart(name):
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite.tasks) >= 8
    assert {2, 4, 6, 8} <= set(suite.counts)
    assert suite.seeds == [0, 1, 2]
    check_overlaps([get_task(task.task) for task in suite.tasks])


def test_pools_of_other_sizes_are_planned_for_the_seeds_that_a_suite_names(tmp_path):
    planned = {"seeds": [0, 1], "counts": [2, 3, 4], "pool": 3}
    some = load_suite(write_suite(tmp_path / "a.yaml", **planned, growing=[1]))
    assert [some.sizes(seed) for seed in (0, 1)] == [[3], [2, 3, 4]]
    assert load_suite(write_suite(tmp_path / "b.yaml", **planned)).sizes(0) == [2, 3, 4]
    largest = load_suite(write_suite(tmp_path / "c.yaml", **{**planned, "pool": None}, growing=[]))
    assert largest.sizes(0) == [4]


def test_the_text_suite_trains_both_kinds_of_experts():
    assert set(load_suite("text").experts) == set(KINDS) == {"full", "lora"}


def test_the_grid_is_the_one_rule():
    assert SCALES == (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


def test_the_plan_of_a_pool_trains_what_the_suite_says(tmp_path):
    suite = load_suite(write_suite(tmp_path / "s.yaml"))
    plan = suite.plan("lora", 3)
    assert [item.task for item in plan.pool] == TINY["tasks"]
    assert (plan.seed, plan.limits.train, plan.base) == (3, 60, suite.base)
    options = TrainOptions.parse(plan.train)
    assert (options.method, options.lora_rank, options.steps) == ("lora", 2, 8)
    with pytest.raises(PlanError, match=r"has no experts 'full'. It has: lora"):
        load_suite(write_suite(tmp_path / "l.yaml", experts={"lora": {}})).plan("full", 0)


def test_a_task_may_have_limits_of_its_own(tmp_path):
    tasks = [{"task": "digits_parity", "limits": {"train": 30}}, "digits_mod3"]
    plan = load_suite(write_suite(tmp_path / "s.yaml", tasks=tasks, counts=[2])).plan("full", 0)
    assert plan.pool[0].limits.train == 30
    assert plan.pool[1].limits is None


def test_the_digest_covers_what_decides_a_number_and_no_title(tmp_path):
    suite = load_suite(write_suite(tmp_path / "a.yaml"))
    planned = {"seeds": [5], "counts": [2, 3], "pool": 2, "growing": []}
    same = load_suite(write_suite(tmp_path / "b.yaml", title="Another", **planned))
    other = load_suite(write_suite(tmp_path / "c.yaml", limits={"train": 61}))
    assert suite.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limit": {}}, "unknown key 'limit': did you mean 'limits'?"),
        ({"limits": {"trian": 3}}, "limits: unknown key 'trian': did you mean 'train'?"),
        ({"experts": {"ful": {}}}, "experts are full or lora, found 'ful'"),
        ({"experts": {"full": {"stepps": 3}}}, "unknown option 'stepps': did you mean 'steps'?"),
        ({"experts": {"full": {"seed": 3}}}, "experts.full: 'seed' is decided by the measurement"),
        ({"experts": {}}, "experts: Dictionary should have at least 1 item"),
        ({"tasks": ["digits_parity", "digits_mod4"], "counts": [2]}, "did you mean 'digits_mod3'?"),
        ({"tasks": ["digits_parity", "digits_parity"], "counts": [2]}, "is in the pool twice"),
        ({"tasks": ["digits_parity"]}, "tasks: List should have at least 2 items"),
        ({"counts": [2, 5]}, "counts: 5 tasks are wanted of 4"),
        ({"counts": [4, 2]}, "counts: expected numbers in ascending order, each once, found [4, 2]"),
        ({"counts": [1]}, "greater than or equal to 2"),
        ({"counts": [2, 4], "pool": 3}, "pool: expected one of [2, 4], found 3"),
        ({"seeds": [0, 1], "growing": [0, 2]}, "growing: expected some of the seeds [0, 1], found 2"),
        ({"seeds": [0, 0]}, "seeds: expected numbers in ascending order"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"base": {"title": "none"}}, "base needs exactly one of path, hub, packaged, built"),
        ({"statistics": {"fischer": {}}}, "did you mean 'fisher'?"),
        ({"statistics": {"graft": {"options": {"step": 3}}}}, "did you mean 'steps'?"),
        ({"statistics": {"graft": {"examples": 0}}}, "greater than or equal to 1"),
        ({"name": "Has Spaces"}, "name: String should match pattern"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, changes, said):
    path = write_suite(tmp_path / "wrong.yaml", **changes)
    with pytest.raises(PlanError) as refused:
        load_suite(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_overlapping_tasks_are_refused(tmp_path):
    path = write_suite(tmp_path / "s.yaml", tasks=["subjectivity", "rt_reviews"], counts=[2])
    with pytest.raises(PlanError, match="contain some of the same inputs"):
        load_suite(path)


def test_a_suite_that_is_not_there(tmp_path):
    with pytest.raises(UnknownName, match="unknown suite 'txt': did you mean 'text'"):
        load_suite("txt")
    with pytest.raises(PlanError, match=r"there is no suite '.*none.yaml'"):
        load_suite(tmp_path / "none.yaml")
    twice = yaml.safe_dump(TINY) + "name: again\n"
    (tmp_path / "twice.yaml").write_text(twice, encoding="utf-8")
    with pytest.raises(PlanError, match="the key 'name' is given twice"):
        load_suite(tmp_path / "twice.yaml")
