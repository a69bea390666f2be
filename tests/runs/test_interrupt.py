"""Runs that are stopped, by hand, by force or by a full disk: nothing half-written looks whole."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from taskloom.errors import OutputError
from taskloom.runs.pipeline import run

from .conftest import MICRO, facts, temporaries, write_plan

#: Runs the command line and sends itself a signal when a moment has come.
DRIVER = textwrap.dedent(
    """
    import os, signal, sys
    from contextlib import contextmanager

    plan, folder, name, moment = sys.argv[1:]

    def stop():
        os.kill(os.getpid(), getattr(signal, name))

    def progress(label, done, total, /):
        if label.startswith(moment) and done >= 1:
            stop()

    @contextmanager
    def listening():
        yield progress

    import taskloom.cli.run
    import taskloom.store.writer as writer
    from taskloom.cli.main import main

    taskloom.cli.run.listening = listening
    if moment == "writing":
        real, count = writer.SafetensorsWriter.write, [0]

        def write(self, *words):
            count[0] += 1
            if count[0] == 5 and "handover" in str(self._path):
                stop()
            return real(self, *words)

        def begin(self, *words, start=writer.SafetensorsWriter.__init__, **options):
            count[0] = 0
            start(self, *words, **options)

        writer.SafetensorsWriter.__init__ = begin
        writer.SafetensorsWriter.write = write
    main(["run", plan, "-o", folder])
    """
)


@pytest.fixture
def fresh(micro, tmp_path, monkeypatch) -> Path:
    """A cache of this test alone that holds the base and no expert."""
    old, new = Path(os.environ["TASKLOOM_CACHE"]), tmp_path / "cache"
    shutil.copytree(old / "bases", new / "bases")
    monkeypatch.setenv("TASKLOOM_CACHE", str(new))
    return new


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("SIGINT", "train digits_mod3"),
        ("SIGINT", "writing"),
        ("SIGKILL", "train digits_parity"),
        ("SIGKILL", "writing"),
    ],
)
def test_a_stopped_run_leaves_nothing_half_done_and_goes_on(micro, fresh, tmp_path, name, moment):
    folder, plan = tmp_path / "run", write_plan(tmp_path / "plan.yaml")
    command = [sys.executable, "-c", DRIVER, str(plan), str(folder), name, moment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if name == "SIGINT":
        assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
        assert not temporaries(folder, fresh)
    else:
        assert done.returncode == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    for handover in (folder / "handover").glob("[!.]*"):
        assert (handover / "taskloom.json").is_file(), "what has its name is whole"
    finished = {p for p in (fresh / "experts").glob("*") if (p / "taskloom.json").is_file()}
    if moment == "train digits_mod3":
        assert [p.name.split("-")[0] for p in finished] == ["digits_parity"]

    result = run(plan, output=folder)
    assert facts(result) == facts(micro.result)
    assert not temporaries(folder)
    skipped = " ".join(result.lock.skipped)
    assert ("experts" in skipped) == bool(finished), "what was finished is not done again"


def test_a_limited_file_size_is_one_clear_error(micro, fresh, tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: the write fails in the middle."""
    folder, plan = tmp_path / "run", write_plan(tmp_path / "plan.yaml")
    code = "import sys; from taskloom.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(plan), "-o", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == OutputError.exit_code, done.stderr
    assert done.stderr.count("\n") == 1
    assert "full" in done.stderr
    assert not temporaries(folder, fresh)
    assert not (folder / "result.json").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 200 kB; skipped where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True, check=False)
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_clear_error_and_more_room_is_all_it_takes(micro, small_disk, tmp_path):
    folder = small_disk / "run"
    with pytest.raises(OutputError, match="full") as caught:
        run(MICRO, output=folder)
    assert "\n" not in str(caught.value)
    assert not temporaries(folder)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    result = run(MICRO, output=folder)
    assert facts(result) == facts(micro.result)


def test_a_full_disk_while_the_ledger_is_written_is_told(micro, tmp_path, monkeypatch):
    import sqlite3

    folder = Path(shutil.copytree(micro.folder, tmp_path / "micro"))

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr("taskloom.runs.ledger._insert", full)
    with pytest.raises(OutputError, match=r"ledger.*full.*Make room"):
        run(MICRO, output=folder)
    assert json.loads((folder / "result.json").read_text())["name"] == "micro", "the run itself is done"
