"""Fits that are interrupted go on to the numbers they would have had, bit by bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taskloom.errors import IntegrityError
from taskloom.learn.coefficients import unfinished
from taskloom.learn.coefficients.descend import Descent, descend
from taskloom.learn.coefficients.watch import Watch
from taskloom.learn.fitted import FitStopped

from .small import net, problem

HOW = Descent("entropy", per="tensor", start=0.3, shape="clamp", rate=0.05, steps=7, passes=2)
CHECKED = Descent("cross_entropy", per="layer", optimizer="adamw", weight_decay=0.1, rate=0.1, steps=7)


def at(folder, **more):
    on = problem(net(torch.float32), folder=folder, size=5)
    return replace(on, validation=on.batches, unfinished=folder / "unfinished", **more)


def interrupted(on, how, step, error):
    """Fit, and stop between the two batches of the first task in the step after ``step``."""
    probe = next(iter(on.probes.values()))
    before = len(on.batches)  # the key looks at the model as well, once a task
    runs, last = [], before + step * how.passes * len(on.batches) + 1

    def run(weights, inputs):
        runs.append(1)
        if len(runs) > last:
            raise error
        return probe.run(weights, inputs)

    probes = dict.fromkeys(on.probes, replace(probe, run=run))
    with pytest.raises(error):
        descend(replace(on, probes=probes), how, name="toy")


@pytest.mark.parametrize(
    "how",
    [
        HOW,
        replace(HOW, optimizer="sgd", shape="shares", start=1 / 3),
        replace(HOW, schedule="cosine", lean=True, penalty=(0.1, 1.0)),
        replace(HOW, objective="js_divergence"),
    ],
    ids=["adam", "sgd", "lean", "experts run again"],
)
@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_fit_goes_on_to_the_same_bits(how, step, tmp_path):
    on = at(tmp_path)
    whole = descend(replace(on, unfinished=None), how, name="toy")
    stopped = []

    def stop(label, done, total):
        if done == step and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(replace(on, progress=stop), how, name="toy")
    (file,) = (tmp_path / "unfinished").iterdir()
    assert file.name.startswith("toy-")
    steps = []
    resumed = descend(replace(on, progress=lambda _, done, total: steps.append(done)), how, name="toy")
    assert steps == list(range(step + 1, how.steps + 1))
    assert resumed.options == whole.options
    assert [(s.step, s.loss, s.values) for s in resumed.trace] == [
        (s.step, s.loss, s.values) for s in whole.trace
    ]
    assert resumed.said["resumed"] == f"after step {step}"
    assert "resumed" not in whole.said
    assert list((tmp_path / "unfinished").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_step_that_was_begun_is_made_again(error, tmp_path):
    on = at(tmp_path)
    whole = descend(replace(on, unfinished=None), HOW, name="toy")
    interrupted(on, HOW, 3, error)
    resumed = descend(on, HOW, name="toy")
    assert resumed.options == whole.options
    assert [s.values for s in resumed.trace] == [s.values for s in whole.trace]
    assert resumed.said["resumed"] == "after step 3"


def test_checks_on_validation_are_remembered(tmp_path):
    how = replace(CHECKED, check_every=2)
    on = at(tmp_path)
    whole = descend(replace(on, unfinished=None), how, name="toy")

    def stop(label, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(replace(on, progress=stop), how, name="toy")
    resumed = descend(on, how, name="toy")
    assert resumed.options == whole.options
    assert resumed.said["kept"] == whole.said["kept"]
    assert [s.values for s in resumed.trace] == [s.values for s in whole.trace]


def test_a_process_that_is_killed_goes_on_from_what_it_saved(tmp_path):
    """SIGKILL leaves nobody time to save; what was saved in time is there, and whole."""
    code = textwrap.dedent(
        f"""
        import os, signal
        from dataclasses import replace
        from pathlib import Path
        from taskloom.learn.coefficients import unfinished
        from taskloom.learn.coefficients.descend import descend
        from tests.learn.coefficients.test_unfinished import HOW, at

        def stop(label, done, total):
            if done == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        unfinished.EVERY = 0.0
        descend(at(Path({str(tmp_path)!r}), progress=stop), HOW, name="toy")
        """
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    on = at(tmp_path)
    whole = descend(replace(on, unfinished=None), HOW, name="toy")
    resumed = descend(on, HOW, name="toy")
    assert resumed.said["resumed"] == "after step 3"
    assert resumed.options == whole.options


def test_what_was_saved_belongs_to_one_fit(tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    on = at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        descend(replace(on, progress=stop), HOW, name="toy")
    (file,) = (tmp_path / "unfinished").iterdir()
    others = [replace(HOW, rate=0.04), replace(HOW, objective="cross_entropy")]
    for how in others:
        assert "resumed" not in descend(on, how, name="toy").said
    assert "resumed" not in descend(replace(on, seed=1), HOW, name="toy").said
    assert unfinished.key_of(on, HOW, "toy") == unfinished.key_of(on, replace(HOW, threads=2), "toy")
    assert file.is_file()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=r"toy-.*: expected the state of this fit.*Remove the file"):
        descend(on, HOW, name="toy")


def test_a_fit_that_stopped_at_nan_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    with pytest.raises(FitStopped):
        descend(at(tmp_path), replace(HOW, rate=1e38, shape="free", steps=50), name="toy")
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_was_watched_survives_json():
    watch = Watch()
    for step in range(1, 25):
        watch.see(step, "t", torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    again = Watch()
    again.resume(json.loads(json.dumps(watch.state())))
    assert again.collapse() == watch.collapse() != ""
    assert again.shares(24) == watch.shares(24) == {"largest class t": 1.0}
