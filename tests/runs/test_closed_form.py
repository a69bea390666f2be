"""MetaGPT without data or search, next to a coefficient of task arithmetic that was searched for."""

from __future__ import annotations

import pytest

from taskloom.runs.pipeline import run

from .conftest import MICRO, plan_with

SCALES = [0.1, 0.3, 0.5, 1.0]


@pytest.fixture(scope="module")
def done(base, experts, tmp_path_factory):
    pool = [{"task": t, "expert": e} for t, e in zip(MICRO["pool"], experts, strict=True)]
    merges = ["metagpt", {"task_arithmetic": {"sweep": {"scale": SCALES}}}]
    plan = plan_with(base={"path": base}, pool=pool, targets=[], merge=merges, guard="warn")
    folder = tmp_path_factory.mktemp("closed") / "run"
    return folder, run(plan, output=folder)


def test_only_the_searched_coefficient_is_searched(done):
    _, result = done
    assert {point.method for point in result.sweeps} == {"task_arithmetic"}
    assert sorted(point.setting for point in result.sweeps) == SCALES
    assert sum(point.chosen for point in result.sweeps) == 1


def test_both_are_scored_on_the_same_test_examples_and_reported(done):
    folder, result = done
    scored = {
        name: {s.task: s for s in result.scores if s.model == name and s.split == "test"}
        for name in ("metagpt", "task_arithmetic")
    }
    assert set(scored["metagpt"]) == set(scored["task_arithmetic"]) == {*MICRO["pool"]}
    for task in MICRO["pool"]:
        one, other = (scored[name][task] for name in scored)
        assert one.n == other.n == 60
        assert one.low <= one.value <= one.high
    page = (folder / "report.html").read_text()
    assert "metagpt" in page
    assert "task arithmetic: scale" in page


def test_the_closed_form_is_of_norms_alone(done):
    _, result = done
    (model,) = [model for model in result.models if model.name == "metagpt"]
    assert model.composition.startswith("size(2") or "size" in model.composition
    assert model.options.get("scale", 1.0) == 1.0
