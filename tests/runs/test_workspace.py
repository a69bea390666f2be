"""The stash: whole entries, no stale ones, one writer at a time."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from taskloom.errors import OutputError
from taskloom.runs import workspace as module
from taskloom.runs.workspace import Workspace, numeric_versions

from .conftest import temporaries


def test_an_array_is_found_again_by_its_key(tmp_path):
    space = Workspace(tmp_path / "run")
    assert space.array("features", ["a", 1]) is None
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    space.keep_array("features", ["a", 1], value)
    again = Workspace(tmp_path / "run")
    np.testing.assert_array_equal(again.array("features", ["a", 1]), value)
    assert again.array("features", ["a", 2]) is None
    assert again.array("labels", ["a", 1]) is None
    assert (space.done, again.skipped) == ({"features": 1}, {"features": 1})


def test_a_value_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": [1, 2.5]}

    for _ in range(2):
        assert Workspace(tmp_path).remember("sweeps", "key", compute) == {"x": [1, 2.5]}
    assert len(calls) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"garbage"])
def test_a_damaged_entry_is_computed_again(tmp_path, damage):
    space = Workspace(tmp_path)
    space.keep_array("features", "k", np.ones(3))
    space.remember("sweeps", "k", lambda: 1)
    for path in [*tmp_path.rglob("*.npy"), *tmp_path.rglob("*.json")]:
        path.write_bytes(damage)
    assert space.array("features", "k") is None
    assert space.remember("sweeps", "k", lambda: 2) == 2


def test_pickles_are_not_opened(tmp_path):
    space = Workspace(tmp_path)
    path = space.entry("features", "k", ".npy")
    path.parent.mkdir(parents=True)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert space.array("features", "k") is None


def test_nothing_survives_other_code_or_other_packages(tmp_path, monkeypatch):
    space = Workspace(tmp_path)
    space.remember("sweeps", "k", lambda: 1)
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    assert space.remember("sweeps", "k", lambda: 2) == 2
    monkeypatch.setattr(module, "numeric_versions", lambda: {**numeric_versions(), "torch": "0"})
    assert space.remember("sweeps", "k", lambda: 3) == 3
    monkeypatch.undo()
    assert space.remember("sweeps", "k", lambda: 4) == 1


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    space = Workspace(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="full"):
        space.keep_array("features", "k", np.ones(3))
    assert space.array("features", "k") is None
    assert not temporaries(tmp_path)
    assert space.done == {}


def _try_to_hold(path, answer):
    try:
        with Workspace(path).exclusive():
            answer.put("held")
    except OutputError as error:
        answer.put(str(error))


def _from_another_process(path) -> str:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_try_to_hold, args=(path, answer))
    process.start()
    told = answer.get(timeout=60)
    process.join()
    return str(told)


@pytest.mark.filterwarnings("default")
def test_a_second_process_is_refused_and_may_come_later(tmp_path):
    with Workspace(tmp_path).exclusive():
        told = _from_another_process(tmp_path)
        assert "another run is writing into" in told
        assert "--output" in told
        with pytest.raises(OutputError, match="another run"), Workspace(tmp_path).exclusive():
            pass
    with Workspace(tmp_path).exclusive():
        pass


def test_what_a_killed_run_left_is_swept_out(tmp_path):
    space = Workspace(tmp_path)
    left = [
        tmp_path / "handover" / ".pool.0123abcd.tmp",
        tmp_path / "stash" / "features" / ".x.npy.0123abcd.tmp",
        tmp_path / ".result.json.0123abcd.tmp",
    ]
    left[0].mkdir(parents=True)
    (left[0] / "model.safetensors").touch()
    left[1].parent.mkdir()
    for path in left[1:]:
        path.touch()
    mine = tmp_path / ".notes.tmp"
    mine.touch()
    with space.exclusive():
        assert not any(path.exists() for path in left)
    assert mine.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be made.*--output"):
        Workspace(tmp_path / "file" / "run")
    folder = tmp_path / "run"
    space = Workspace(folder)
    (folder / ".running").mkdir()
    with pytest.raises(OutputError, match="cannot be written"), space.exclusive():
        pass


def test_stages_are_clocked_even_when_they_fail(tmp_path):
    space = Workspace(tmp_path)
    with pytest.raises(ZeroDivisionError), space.stage("a"):
        _ = 1 / 0
    before = space.seconds["a"]
    with space.stage("a"):
        pass
    assert space.seconds["a"] >= before >= 0


def test_versions_are_of_this_environment():
    import torch

    found = numeric_versions()
    assert found["torch"] == str(torch.__version__).split("+")[0] or found["torch"] == torch.__version__
    assert {"numpy", "scikit-learn", "transformers"} <= set(found)


def test_an_extra_that_is_not_used_is_no_part_of_a_key():
    assert "peft" not in numeric_versions()
    assert "peft" in numeric_versions("peft")
