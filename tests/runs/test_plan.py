"""A plan is refused before anything is read, and the message says what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from taskloom.errors import PlanError, UnknownName
from taskloom.runs.demo import plan_path
from taskloom.runs.plan import Plan, load_plan

from .conftest import MICRO, plan_with


def refused(content) -> str:
    with pytest.raises(PlanError) as caught:
        load_plan(content)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


BUILT = MICRO["base"]["built"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # a key that does not exist, at every level, with the nearest that does
        ({"targts": []}, "unknown key 'targts': did you mean 'targets'?"),
        ({"base": {"pth": "x"}}, "base: unknown key 'pth': did you mean 'path'?"),
        ({"base": {"built": {**BUILT, "pretrian": "x"}}}, "did you mean 'pretrain'?"),
        ({"limits": {"trian": 9}}, "limits: unknown key 'trian': did you mean 'train'?"),
        ({"pool": [{"taks": "digits_mod3"}]}, "pool.0: unknown key 'taks': did you mean 'task'?"),
        ({"targets": [{"task": "digits_ten", "label": 9}]}, "did you mean 'labels'?"),
        ({"merge": [{"method": "ties", "optons": {}}]}, "did you mean 'options'?"),
        ({"select": [{"score": "knn", "optoins": {}}]}, "did you mean 'options'?"),
        ({"evaluation": {"batchsize": 8}}, "did you mean 'batch_size'?"),
        ({"train": {"stpes": 5}}, "did you mean 'steps'?"),
        # names
        ({"pool": ["digits_parety"]}, "unknown task 'digits_parety': did you mean 'digits_parity'?"),
        ({"targets": ["digits_tne"]}, "did you mean 'digits_ten'?"),
        ({"merge": ["tise"]}, "unknown merging method 'tise': did you mean 'ties'?"),
        ({"select": ["logm"]}, "unknown transferability score 'logm': did you mean 'logme'?"),
        ({"train": {"method": "lroa"}}, "unknown training method 'lroa': did you mean 'lora'?"),
        ({"base": {"built": {**BUILT, "pretrain": "digits_prim"}}}, "did you mean 'digits_prime'?"),
        ({"base": {"built": {**BUILT, "pretrain": ["digits_ten", "x_y"]}}}, "unknown task 'x_y'"),
        ({"base": {"built": {**BUILT, "pretrain": []}}}, "at least 1 item"),
        ({"base": {"built": {**BUILT, "limits": {"trian": 9}}}}, "did you mean 'train'?"),
        ({"base": {"built": {**BUILT, "options": {"step": 1}}}}, "did you mean 'steps'?"),
        # options
        ({"merge": [{"ties": {"densty": 1}}]}, "ties: unknown option 'densty': did you mean 'density'?"),
        ({"merge": [{"ties": {"density": 2}}]}, "less than or equal to 1"),
        ({"merge": [{"ties": {"sweep": {"density": [0.2, 2]}}}]}, "less than or equal to 1"),
        ({"merge": [{"ties": {"sweep": {"scle": [1]}}}]}, "did you mean 'scale'?"),
        ({"merge": [{"ties": {"sweep": {"scale": []}}}]}, "at least 1 item"),
        ({"merge": [{"ties": {"sweep": {"scale": [float("nan")]}}}]}, "finite number"),
        ({"merge": [{"ties": {"sweep": {"scale": 0.3}}}]}, "valid list"),
        ({"merge": [{"ties": {"sweep": {"scale": [1], "density": [1]}}}]}, "at most 1 item"),
        ({"merge": [{"ties": {"scale": 1, "sweep": {"scale": [1]}}}]}, "both set and swept"),
        ({"merge": [{"ties": 0.2}]}, "ties: expected options and their values, found float 0.2"),
        ({"merge": [{"task_arithmetic": {"weights": [1, 2, 3]}}]}, "weight"),
        ({"merge": ["task_analogy"]}, "exactly 3 experts, but the pool has 2"),
        ({"select": [{"h_score": {"regularized": True}}]}, "did you mean 'regularised'?"),
        ({"select": [{"h_score": [1]}]}, "h_score: expected options and their values"),
        ({"select": []}, "at least 1 item"),
        ({"limits": {"train": 1}}, "limits.train: Input should be greater than or equal to 2"),
        ({"targets": [{"task": "digits_ten", "labels": 3}]}, "greater than or equal to 4"),
        ({"train": {"steps": 0}}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"guard": "off"}, "'strict' or 'warn'"),
        ({"name": "a/b"}, "name: String should match pattern"),
        # the base
        ({"base": {}}, "exactly one of path, hub, packaged, built, but has none"),
        ({"base": {"path": "x", "hub": "a/b"}}, "but has path, hub"),
        # sets of tasks
        ({"pool": []}, "at least 1 item"),
        ({"pool": ["digits_mod3", "digits_mod3"]}, "task 'digits_mod3' is in the pool twice"),
        ({"targets": ["digits_ten", "digits_ten"]}, "target 'digits_ten' is there twice"),
        ({"targets": ["digits_mod3"]}, "target 'digits_mod3' is also a task of the pool"),
        ({"merge": ["ties", "ties"]}, "two merges are called 'ties'"),
        ({"merge": [{"method": "ties", "name": "base"}]}, "cannot be called 'base'"),
        ({"select": ["knn", "knn"]}, "the score 'knn' is there twice"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(changes, told):
    assert told in refused(plan_with(**changes))


def test_overlapping_tasks_are_refused():
    from taskloom.evaluation.task import get_task, task_names

    first, second = next((n, o) for n in task_names() for o in get_task(n).overlaps)
    told = refused(plan_with(pool=[first], targets=[second]))
    assert "contain some of the same inputs" in told


def test_a_task_is_recognised_by_its_name_not_by_how_it_is_referred_to(tmp_path):
    from taskloom.evaluation import task as tasks

    source = Path(tasks.__file__).parent / "annotations" / "digits_mod3.yaml"
    copy = tmp_path / "again.yaml"
    copy.write_bytes(source.read_bytes())
    assert "'digits_mod3' is in the pool twice" in refused(plan_with(pool=["digits_mod3", str(copy)]))
    assert "also a task of the pool" in refused(plan_with(targets=[str(copy)]))
    copy.write_text(source.read_text().replace("name: digits_mod3", "name: pool"))
    assert "cannot be called 'pool'" in refused(plan_with(targets=[str(copy)]))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"name: [a\nbase: {", "is not valid YAML (line 2, column 5)"),
        (b"name: a\n  base: 1", "line 2"),
        (b"name: \xff", "is not UTF-8 text (byte 6). Save it as UTF-8"),
        (b"name: a\x07", "is not valid YAML"),
        (b"", "expected keys and values, found NoneType"),
        (b"- a\n- b", "expected keys and values, found list"),
        (
            b"name: a\nmerge: [ties]\nmerge: [average]",
            "column 1): the key 'merge' is given twice",
        ),
        (b"name: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_its_place(tmp_path, data, told):
    path = tmp_path / "plan.yaml"
    path.write_bytes(data)
    message = refused(path)
    assert told in message
    assert "plan.yaml" in message


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    assert "there is no plan" in refused(tmp_path / "none.yaml")
    assert "cannot be read" in refused(tmp_path)


def test_short_and_long_forms_mean_the_same():
    short, _ = load_plan(plan_with(merge=["ties"], select=["knn"], pool=["digits_mod3"], targets=[]))
    long, _ = load_plan(
        plan_with(
            merge=[{"method": "ties"}],
            select=[{"score": "knn"}],
            pool=[{"task": "digits_mod3"}],
            targets=[],
        )
    )
    assert short == long
    assert short.digest == long.digest
    (item,) = load_plan(plan_with(merge=[{"ties": {"density": 0.3, "name": "T"}}]))[0].merge
    assert (item.method, item.options, item.label) == ("ties", {"density": 0.3}, "T")
    (score,) = load_plan(plan_with(select=[{"h_score": {"regularised": True}}]))[0].select
    assert (score.score, score.label) == ("h_score", "h_score(regularised=True)")


def test_a_mapping_becomes_yaml_that_reads_back_as_the_same_plan():
    plan, text = load_plan(plan_with(base={"path": Path("models/base")}))
    again, _ = load_plan(yaml.safe_load(text))
    assert again == plan


def test_the_digest_follows_the_content(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(MICRO))
    one, text = load_plan(path)
    assert text == path.read_text()
    assert one.digest == load_plan(MICRO)[0].digest
    assert one.digest != load_plan(plan_with(seed=1))[0].digest


@pytest.mark.parametrize("path", sorted(plan_path("small").parent.glob("*.yaml")), ids=lambda p: p.stem)
def test_built_in_plans_are_plans(path):
    plan, _ = load_plan(path)
    assert isinstance(plan, Plan)
    assert plan.name == path.stem


def test_unknown_names_are_their_own_error():
    with pytest.raises(UnknownName):
        load_plan(plan_with(merge=["tise"]))
