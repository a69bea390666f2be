"""Module fits that are interrupted go on to the numbers they would have had, bit by bit."""

from __future__ import annotations

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
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.probe import Examples
from taskloom.registry import entries

from .adapters import skills
from .small import averaged, inputs, problem
from .test_twin_router import parts_of
from .test_wemoe import FC

STEPS = 12
SETTINGS = {
    "surgery": {"steps": STEPS},
    "surgery_v2": {"steps": STEPS},
    "wemoe": {"steps": STEPS, "learning_rate": 0.05, "mlp": FC},
    "tinting": {"epochs": STEPS, "learning_rate": 0.05},
    "twin_router": {"epochs": 4, "learning_rate": 0.05, "batch_size": 16, "dropout": 0.3},
    "cat": {"epochs": 2, "learning_rate": 0.1},
    "scalearn": {"epochs": 2, "learning_rate": 0.1},
    "graft": {"steps": STEPS, "sparsity": 0.05},
}


def made(name, folder):
    """Return a problem, and what a module of that name sits on."""
    if name in ("cat", "scalearn"):
        _, _, on = skills(folder, teacher=[1.0, 0.5])
        return replace(on, validation=on.batches), None
    if name == "graft":
        on = problem(tasks=("mood",), labels=True)
        return replace(on, validation=on.batches), None
    on = problem()
    if name == "tinting":
        return on, None
    if name in ("surgery", "surgery_v2"):  # other inputs say which epoch is kept
        others = {task: Examples.of([(inputs(9, seed=k), None)]) for k, task in enumerate(on.tasks)}
        return replace(on, validation=others), averaged(on)
    if name == "twin_router":
        return replace(on, validation=on.batches), parts_of(on, folder / "parts", share=0.5)[0]
    return on, averaged(on)


def stopping(at, error=KeyboardInterrupt):
    """Return a listener that interrupts a fit after a step, once."""
    seen = []

    def told(label, done, total):
        seen.append(done)
        if done == at:
            raise error

    return told


def same(one, other):
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    assert [(s.step, s.loss, s.values) for s in one.trace] == [
        (s.step, s.loss, s.values) for s in other.trace
    ]


def test_every_module_is_tried():
    assert {entry.name for entry in entries("module")} == SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupted_module_goes_on_to_the_same_bits(name, tmp_path):
    on, under = made(name, tmp_path)
    whole = fit_module(name, on, under, **SETTINGS[name])
    kept = replace(on, unfinished=tmp_path / "unfinished")
    for at in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            fit_module(name, replace(kept, progress=stopping(at)), under, **SETTINGS[name])
        (file,) = kept.unfinished.iterdir()
        assert file.name.startswith(f"{name}-")
    steps = []
    torch.manual_seed(99)  # what was drawn elsewhere does not matter
    resumed = fit_module(
        name, replace(kept, progress=lambda _, done, total: steps.append(done)), under, **SETTINGS[name]
    )
    assert steps[0] == 8
    same(resumed, whole)
    assert resumed.said["resumed"] == "after step 3, 7"
    assert "resumed" not in whole.said
    assert {k: v for k, v in resumed.said.items() if k not in ("resumed", "seconds")} == {
        k: v for k, v in whole.said.items() if k != "seconds"
    }
    assert list(kept.unfinished.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"options": {"rank": 4}}, {"under": "base"}, {"seed": 5}, {"own": "turned"}],
    ids=["option", "merge", "seed", "experts"],
)
def test_another_fit_does_not_go_on_from_it(change, tmp_path):
    on, under = made("surgery", tmp_path)
    kept = replace(on, unfinished=tmp_path / "unfinished")
    with pytest.raises(KeyboardInterrupt):
        fit_module("surgery", replace(kept, progress=stopping(5)), under, steps=STEPS)
    if "seed" in change:
        kept = replace(kept, seed=change["seed"])
    if "own" in change:
        kept = replace(kept, own=dict(zip(kept.own, reversed(kept.own.values()), strict=True)))
    below = None if "under" in change else under
    options = {"steps": STEPS, **change.get("options", {})}
    fitted = fit_module("surgery", kept, below, **options)
    assert "resumed" not in fitted.said
    same(fitted, fit_module("surgery", replace(kept, unfinished=None), below, **options))


def test_a_damaged_state_is_refused_by_name(tmp_path):
    on, under = made("surgery", tmp_path)
    kept = replace(on, unfinished=tmp_path / "unfinished")
    with pytest.raises(KeyboardInterrupt):
        fit_module("surgery", replace(kept, progress=stopping(5)), under, steps=STEPS)
    (file,) = kept.unfinished.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=f"{file.name}.* damaged.*Remove the file"):
        fit_module("surgery", kept, under, steps=STEPS)


def test_a_loss_that_is_not_finite_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    on, under = made("surgery", tmp_path)
    kept = replace(on, unfinished=tmp_path / "unfinished")
    with pytest.raises(ModuleStopped) as caught:
        fit_module("surgery", kept, under, steps=400, learning_rate=1e30)
    assert caught.value.fitted.trace
    assert list(kept.unfinished.iterdir()) == []


def test_a_process_that_is_killed_goes_on_from_what_it_saved(tmp_path):
    """SIGKILL leaves nobody time to save; what was saved in time is there, and whole."""
    code = textwrap.dedent(
        f"""
        import os, signal
        from dataclasses import replace
        from pathlib import Path
        from taskloom.learn.coefficients import unfinished
        from taskloom.learn.modules.kit.opening import fit_module
        from tests.learn.modules.test_module_resume import made

        unfinished.EVERY = 0.0
        folder = Path({str(tmp_path)!r})

        def told(label, done, total):
            if done == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        on, under = made("surgery", folder)
        kept = replace(on, unfinished=folder / "unfinished", progress=told)
        fit_module("surgery", kept, under, steps={STEPS})
        """
    )
    root = Path(__file__).parents[3]
    given = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], env=given, cwd=root, check=False)
    assert ended.returncode == -signal.SIGKILL
    on, under = made("surgery", tmp_path)
    resumed = fit_module("surgery", replace(on, unfinished=tmp_path / "unfinished"), under, steps=STEPS)
    assert resumed.said["resumed"] == "after step 6"
    same(resumed, fit_module("surgery", on, under, steps=STEPS))
