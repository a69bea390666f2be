"""The loop: budget, memory, losses that are not finite, interruption and going on."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from taskloom.errors import NumericalError, PlanError
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.drive import search
from taskloom.learn.search.grid import Grid
from taskloom.learn.search.journal import Journal
from taskloom.learn.search.with_cma import CmaEs
from taskloom.learn.search.with_nevergrad import Nevergrad
from taskloom.learn.search.with_optuna import Tpe

from .bowls import Meter, bowl, plain, space

TARGET = [0.4, -0.7, 0.1]


def made(name, seed=0, evaluations=30):
    if name == "nevergrad":
        return Nevergrad(space(3), evaluations=evaluations, seed=seed)
    return (CmaEs if name == "cma" else Tpe)(space(3), seed=seed)


def rows(found):
    return [(trial.number, trial.candidate, trial.loss) for trial in found.trials]


def test_the_budget_is_kept_to_the_evaluation():
    for evaluations in (1, 5, 8, 30):
        meter = Meter(bowl(TARGET))
        found = search(made("cma"), meter, plain, budget=Budget(evaluations))
        assert meter.calls == len(found.trials) == found.fresh == evaluations
        assert not found.exhausted


def test_minutes_end_it_before_they_are_over():
    meter = Meter(bowl(TARGET), seconds=7.0)
    found = search(made("cma"), meter, plain, budget=Budget(minutes=1))
    assert len(found.trials) == 8  # 56 seconds


def test_minutes_that_one_evaluation_takes_longer_than(tmp_path):
    meter = Meter(bowl(TARGET), seconds=90.0)
    with Journal(tmp_path / "j") as journal, pytest.raises(PlanError, match="too small for one"):
        search(made("cma"), meter, plain, budget=Budget(minutes=1), journal=journal)
    assert meter.calls == 1
    with Journal(tmp_path / "j") as journal:  # what it took is not lost
        search(made("cma"), meter, plain, budget=Budget(minutes=2), journal=journal)
    assert meter.calls == 1


def test_the_best_is_chosen_and_of_equals_the_first():
    losses = {0.0: 2.0, 1.0: 1.0, 2.0: 1.0, 3.0: 4.0}
    found = search(
        Grid({"scale": [3.0, 0.0, 2.0, 1.0]}),
        Meter(lambda c: losses[c["scale"]]),
        plain,
        budget=Budget(10),
    )
    assert (found.chosen.candidate, found.chosen.loss) == ({"scale": 1.0}, 1.0)
    assert (found.chosen.number, found.exhausted) == (1, True)


def test_the_same_candidate_is_measured_once():
    class Twice(Grid):
        def ask(self):
            return {"scale": 0.5}

    meter = Meter(lambda c: c["scale"])
    found = search(Twice({"scale": [0.5]}), meter, plain, budget=Budget(4))
    assert (meter.calls, len(found.trials), found.fresh) == (1, 4, 1)
    found = search(Twice({"scale": [0.5]}), Meter(lambda c: 1.0, 20.0), plain, budget=Budget(minutes=1))
    assert len(found.trials) == 3  # counts as if measured again, so that this ends


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["cma", "tpe", "nevergrad"])
def test_a_loss_that_is_not_finite_is_the_worst(name, bad):
    smooth = bowl(TARGET)

    def rough(candidate):
        return bad if candidate["weights"]["e0"] > 0.45 else smooth(candidate)

    found = search(made(name), Meter(rough), plain, budget=Budget(30))
    assert math.isfinite(found.chosen.loss)
    assert found.chosen.candidate["weights"]["e0"] <= 0.45
    assert found.chosen.loss < smooth({"weights": {"e0": 0.0, "e1": 0.0, "e2": 0.0}})


def test_no_finite_loss_at_all():
    with pytest.raises(NumericalError, match=r"none of 3 candidates .*'scale': 0.5.*task task"):
        search(
            Grid({"scale": [0.5, 1.0, 2.0]}),
            Meter(lambda c: math.nan),
            plain,
            budget=Budget(10),
            label="lorahub",
        )


def test_progress_is_told():
    heard = []
    search(
        Grid({"scale": [1.0, 2.0]}),
        Meter(lambda c: 1.0),
        plain,
        budget=Budget(5),
        label="grid",
        progress=lambda *each: heard.append(each),
    )
    assert heard == [("grid", 1, 5), ("grid", 2, 5)]


@pytest.mark.parametrize("name", ["cma", "tpe", "nevergrad"])
@pytest.mark.parametrize("stop_at", [1, 13, 29])
def test_an_interrupted_search_goes_on_and_ends_as_one_that_was_not(tmp_path, name, stop_at):
    whole = search(made(name), Meter(bowl(TARGET)), plain, budget=Budget(30))
    broken = Meter(bowl(TARGET), stop_at=stop_at)
    with Journal(tmp_path / "j") as journal, pytest.raises(KeyboardInterrupt):
        search(made(name), broken, plain, budget=Budget(30), journal=journal)
    meter = Meter(bowl(TARGET))
    with Journal(tmp_path / "j") as journal:
        found = search(made(name), meter, plain, budget=Budget(30), journal=journal)
    assert meter.calls == found.fresh == 30 - stop_at
    assert rows(found) == rows(whole)
    assert found.chosen == whole.chosen


def test_another_context_is_another_measurement(tmp_path):
    meter = Meter(lambda c: c["scale"])
    for context in ({"model": 1}, {"model": 2}, {"model": 1}):
        with Journal(tmp_path / "j") as journal:
            grid = Grid({"scale": [1.0, 2.0]})
            search(grid, meter, plain, budget=Budget(5), journal=journal, context=context)
    assert meter.calls == 4


def test_a_preference_needs_no_new_evaluation(tmp_path):
    meter, losses = Meter(lambda c: c["scale"]), []
    for sign in (1, -1):
        with Journal(tmp_path / "j") as journal:
            found = search(
                Grid({"scale": [1.0, 2.0]}),
                meter,
                lambda c, given, sign=sign: sign * given["task"],
                budget=Budget(5),
                journal=journal,
            )
        losses.append(found.chosen.candidate["scale"])
    assert (meter.calls, losses) == (2, [1.0, 2.0])


KILLED = """
    import sys, time
    from pathlib import Path
    from taskloom.learn.search.budget import Budget
    from taskloom.learn.search.drive import search
    from taskloom.learn.search.journal import Journal, Measured
    from taskloom.learn.search.space import Gene, Space
    from taskloom.learn.search.with_cma import CmaEs

    calls, stop = 0, int(sys.argv[2])

    def measure(candidate):
        global calls
        if calls == stop:
            time.sleep(600)
        calls += 1
        return Measured({"task": (candidate["scale"] - 0.3) ** 2}, {"task": 0.5}, 1.0)

    proposer = CmaEs(Space((Gene(("scale",), 1.0, 0.0, 2.0), Gene(("rest",), 0.0, -1.0, 1.0))), seed=3)
    with Journal(Path(sys.argv[1])) as journal:
        found = search(proposer, measure, lambda c, l: l["task"], budget=Budget(60), journal=journal)
    print(found.fresh, found.chosen.candidate, [t.loss for t in found.trials])
"""


def test_a_killed_process_goes_on(tmp_path):
    def start(name, stop=-1):
        words = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / name), str(stop)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    whole, victim, path = start("whole"), start("killed", stop=10), tmp_path / "killed"
    until = time.monotonic() + 300
    while time.monotonic() < until and not (path.exists() and path.read_bytes().count(b"\n") == 10):
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert path.read_bytes().count(b"\n") == 10
    again = start("killed")
    out, wanted = again.communicate(timeout=300)[0], whole.communicate(timeout=300)[0]
    assert again.returncode == whole.returncode == 0
    assert (out.split(" ", 1)[0], wanted.split(" ", 1)[0]) == ("50", "60")
    assert out.split(" ", 1)[1] == wanted.split(" ", 1)[1]
