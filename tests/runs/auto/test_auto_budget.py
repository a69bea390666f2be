"""The time of taskloom auto: it is kept, it decides the rungs, and an interrupted run goes on."""

from __future__ import annotations

import json
import re

import pytest

import taskloom
from taskloom.errors import OutputError, PlanError
from taskloom.runs.auto.api import plain
from taskloom.runs.plan import Limits
from taskloom.runs.workspace import Workspace

LIMITS = Limits(train=160, validation=72, test=60)


def run(world, output, minutes, clock, **more):
    return taskloom.auto(
        world.tasks["two"],
        world.base,
        world.experts,
        minutes=minutes,
        output=output,
        limits=LIMITS,
        methods=["task_arithmetic"],
        clock=clock,
        **more,
    )


def told(found):
    """Return what two runs must agree on: all but where they are."""
    kept = json.loads(json.dumps(plain(found)), parse_float=lambda text: round(float(text), 6))
    return {key: kept[key] for key in kept if key not in ("path", "model", "page", "picture")}


def test_little_time_means_rungs_and_is_kept(world, paced, tmp_path):
    found = run(world, tmp_path / "out", 2.2, paced())
    assert found.seconds <= 60 * 2.2
    assert len(found.rungs) > 1
    for rung in found.rungs[: found.reached]:
        tried = [row for row in found.rows if any(p.rung == rung.number for p in row.points)]
        assert 1 <= len(tried) <= rung.count
        assert all(row.points[rung.number].share == rung.share for row in tried)
    assert {row.points[0].n for row in found.rows if row.points} == {32}
    assert all(row.why for row in found.rows if row.last is None)
    assert [row for row in found.rows if row.why.startswith("place")]


def test_with_time_enough_everything_is_tried_on_everything(world, paced, tmp_path):
    found = run(world, tmp_path / "out", 60, paced())
    assert [rung.share for rung in found.rungs] == [1.0]
    for row in found.rows:
        if row.name == "fine-tune":  # not asked for, so in the check alone
            assert (row.last, row.why) == (None, "only in the check")
        else:
            assert row.last.share == 1.0
    assert found.seconds < 3600


def test_a_step_that_takes_longer_than_thought_is_the_only_excess(world, paced, tmp_path):
    clock = paced()
    usual = clock.work

    def slower(count):
        usual(count)
        clock.now += 40.0 if clock.runs == 8 else 0.0

    clock.work = slower
    found = run(world, tmp_path / "out", 2.2, clock)
    longest = max(point.seconds for row in found.rows for point in row.points)
    assert longest > 40
    assert found.seconds <= 60 * 2.2 + longest


def test_a_budget_that_is_too_small_names_one_that_does(world, paced, tmp_path):
    with pytest.raises(PlanError, match=r"is too small: .* Give .* minutes or more") as caught:
        run(world, tmp_path / "out", 0.1, paced())
    figure = float(re.search(r"Give ([\d.]+) minutes", str(caught.value))[1])
    assert figure > 0.1
    found = run(world, tmp_path / "out", figure, paced())
    assert sum(bool(row.points) for row in found.rows) >= 2
    assert found.seconds <= 60 * figure


def test_an_interrupted_run_ends_as_it_would_have_ended(world, paced, tmp_path):
    whole = paced()
    wanted = run(world, tmp_path / "whole", 2.2, whole)
    runs = 0
    for most in (7, 5):
        stopped = paced(most=most)
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path / "parts", 2.2, stopped)
        runs += stopped.runs
    rest = paced()
    found = run(world, tmp_path / "parts", 2.2, rest)
    assert told(found) == told(wanted)
    assert runs + rest.runs == whole.runs
    again = paced(most=0)
    assert told(run(world, tmp_path / "parts", 2.2, again)) == told(wanted)
    assert again.runs == 0
    kept = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert kept["seconds"] == pytest.approx(wanted.seconds)


def test_two_runs_do_not_share_a_folder(world, paced, tmp_path):
    with (
        Workspace(tmp_path / "out").exclusive(),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        run(world, tmp_path / "out", 5, paced())


def test_what_is_dearest_is_left_out_first(world, paced, tmp_path):
    """A fine-tune is dear, merges are not: the time there is goes to the many that are cheap."""
    found = taskloom.auto(
        world.tasks["two"],
        world.base,
        world.experts,
        minutes=2.2,
        output=tmp_path / "out",
        limits=LIMITS,
        methods=["task_arithmetic", "fine-tune"],
        clock=paced(),
    )
    tried = {row.name for row in found.rows if row.last is not None}
    assert {row.name for row in found.rows if row.kind != "fine-tune"} - tried <= {
        "fine-tune of best expert"
    }
    assert found.row("fine-tune of best expert").why == "no time to try it"
    assert "fine-tune" in found.verdict.absent


def test_time_that_a_careful_plan_leaves_is_used(world, paced, tmp_path, monkeypatch):
    """A plan that admits two members, on a ninth: the others join, and the best go on."""
    from taskloom.runs.auto import climb

    def careful(self):
        names = [member.name for member in self.members[:2]]
        return {"admitted": names, "halvings": 0, "most": 1 / 9}

    monkeypatch.setattr(climb.Climb, "_plan", careful)
    found = run(world, tmp_path / "out", 10, paced())
    climbed = [row for row in found.rows if row.name != "fine-tune"]  # which is in the check alone
    assert all(row.points for row in climbed)
    counts = [
        sum(any(p.rung == rung.number for p in row.points) for row in climbed) for rung in found.rungs
    ]
    assert counts == [rung.count for rung in found.rungs]
    assert [rung.share for rung in found.rungs] == pytest.approx([1 / 9, 1 / 3, 1])
    assert counts[1:] == [len(climbed) // 3, max(1, len(climbed) // 9)]
    assert found.seconds <= 600
    again = run(world, tmp_path / "out", 10, paced())
    assert told(again) == told(found)
