"""The front of a search: what is on it, what of it is told, and over which tasks it is drawn."""

from __future__ import annotations

import json

import pytest

from taskloom.errors import PlanError
from taskloom.learn.fitted import Fitted, Step
from taskloom.runs.fit import fit
from taskloom.runs.fit_front import axes_of, front_of
from taskloom.runs.fit_module import fit_by_name
from taskloom.runs.search_chart import search_chart
from taskloom.runs.trace import save_trace_picture, trace_chart

LOSSES = [(3, 1, 2), (2, 2, 2), (3, 3, 3), (1, 3, 0.5), (2, 2, 2)]


def beaten(point):
    """Restated: somebody is at most as high everywhere and is another point."""
    return any(all(a <= b for a, b in zip(o, point, strict=True)) and o != point for o in LOSSES)


def searched(chosen=1):
    trace = []
    for number, point in enumerate(LOSSES):
        values = {"scale": number / 10, "weights.a": 1.0}
        values |= {f"loss {task}": float(loss) for task, loss in zip("abc", point, strict=True)}
        values |= {"best": min(sum(p) / 3 for p in LOSSES[: number + 1])}
        values["front"] = float(not beaten(point))
        trace.append(Step(number + 1, sum(point) / 3, 0.1, values))
    options = {"scale": chosen / 10, "weights": {"a": 1.0}, "scope": "model"}
    return Fitted("ties", options, tuple(trace), {"objective": "error"})


def test_the_front_is_what_nobody_beats_by_the_first_task():
    rows = front_of(searched())
    assert [row.losses for row in rows] == sorted({p for p in LOSSES if not beaten(p)})
    assert [(row.evaluation, row.chosen) for row in rows] == [(4, False), (2, True), (1, False)]
    assert rows[1].loss == 2.0
    assert [(row.evaluation, row.chosen) for row in front_of(searched(4))][1] == (5, True)
    assert not any(row.chosen for row in front_of(searched(2)))
    assert front_of(Fitted("ties", {}, (Step(1, 0.5, 0.1, {"loss a": 0.5, "best": 0.5}),))) == []
    assert front_of(Fitted("ties", {})) == []


def test_the_front_is_drawn_over_the_tasks_that_are_named(tmp_path):
    def axes(**named):
        encoding = search_chart(searched(), **named)["vconcat"][1]["encoding"]
        return encoding["x"]["field"], encoding["y"]["field"]

    assert axes() == ("loss a", "loss b")
    assert axes(x="c", y="a") == ("loss c", "loss a")
    assert axes(y="a") == ("loss b", "loss a")
    file = save_trace_picture(searched(), tmp_path / "front.svg", x="c", y="b")
    assert "loss c" in file.read_text()


@pytest.mark.parametrize(
    ("tasks", "named", "told"),
    [
        (["first", "second"], {"x": "frist"}, "the axis x is 'frist': did you mean 'first'? Tasks: "),
        (["first", "second"], {"x": "first", "y": "first"}, "both axes are 'first'"),
        (["first"], {}, "drawn over two tasks, and there is one"),
    ],
)
def test_axes_that_cannot_be(tasks, named, told):
    with pytest.raises(PlanError) as caught:
        axes_of(tasks, **named)
    assert told in str(caught.value)


def test_axes_of_what_has_no_front_are_refused_before_anything_is_read():
    nothing = (["digits_parity", "digits_mod3"], "nowhere", ["nowhere"])
    more = {"picture": "front.svg", "x": "digits_mod3"}
    with pytest.raises(PlanError, match="adamerging is no search, and has no front to draw"):
        fit("adamerging", *nothing, **more)
    with pytest.raises(PlanError, match="surgery is no fit of a recipe, and has no x"):
        fit_by_name("surgery", *nothing, **more)
    with pytest.raises(PlanError, match="the axis y is 'digits_mod'"):
        fit("scale_search", *nothing, **more, y="digits_mod")
    with pytest.raises(PlanError, match="x and y are axes of a picture, and none is asked for"):
        fit("scale_search", *nothing, x="digits_mod3")
    step = Step(1, 0.5, 0.1, {"loss a": 0.5})
    with pytest.raises(PlanError, match="no search has no front to draw"):
        trace_chart(Fitted("ties", {}, (step,)), x="a")


@pytest.mark.usefixtures("sealed")
def test_the_verb_prints_and_draws_it(base, named, tmp_path, cli):
    tasks = ["digits_parity", "digits_mod3", "digits_ten"]
    words = ["fit", "scale_search", "--base", base, "--examples", 30, "--no-fine-tune"]
    words += ["--set", "levels=3", "--set", "objective=cross_entropy"]
    words += [w for name, path in named.items() for w in ("--expert", f"{name}={path}")]
    words += [w for task in tasks for w in ("--task", task)]
    files = ["--trace", tmp_path / "t.json", "--picture", tmp_path / "t.svg"]
    status, out, err = cli(*words, *files, "--x", tasks[2], "--y", tasks[0])
    assert status == 0, err
    trace = json.loads((tmp_path / "t.json").read_text())["trace"]
    front = [step for step in trace if step["front"]]
    assert f"The front: {len(front)} of 3 candidates" in out
    for step in front:
        assert all(f"{step[f'loss {task}']:.4f}" in out for task in tasks)
    assert "loss digits_ten" in (tmp_path / "t.svg").read_text()
    assert "loss digits_mod3" not in (tmp_path / "t.svg").read_text()
