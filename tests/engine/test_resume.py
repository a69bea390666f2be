"""Merges that are killed, stopped or hindered: nothing looks finished, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from taskloom import merge_files, verify
from taskloom.errors import IntegrityError, OutputError

from .models import make_weights, save, save_pool

SHARD = 1500  # bytes: several shards of a small model


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    return save_pool(tmp_path / "pool", count=2)


def merged(pool, out, **options):
    options = {"threads": 1, "max_shard_bytes": SHARD, "density": 0.5} | options
    return merge_files(pool[0], pool[1], "ties", out, **options)


def contents(folder):
    """Every file's bytes; of the record what is the same for every run."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads(found.pop("taskloom.json"))
    for key in ("seconds", "peak_memory_bytes", "resumed_shards", "threads", "workers"):
        record.pop(key)
    return found, record


def journal(out):
    path = out.with_name(out.name + ".partial") / "journal.json"
    return json.loads(path.read_text())["shards"] if path.exists() else {}


KILLED = """
import os, signal, sys
from taskloom import merge_files
count = 0
def progress(label, done, total):
    global count
    count += 1
    if count == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
merge_files(sys.argv[2], sys.argv[4:], "ties", sys.argv[3], threads=1, max_shard_bytes=1500,
            density=0.5, progress=progress, workers=int(os.environ["WORKERS"]))
"""


@pytest.mark.parametrize(("at", "workers"), [(2, 1), (16, 1), (19, 1), (17, 2)])
def test_killed_and_continued(pool, tmp_path, at, workers):
    whole, out = tmp_path / "whole" / "out", tmp_path / "out"
    merged(pool, whole)
    command = [sys.executable, "-c", KILLED, str(at), str(pool[0]), str(out), *map(str, pool[1])]
    killed = subprocess.run(command, env=os.environ | {"WORKERS": str(workers)}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    done = journal(out)
    merged(pool, out)
    record = json.loads((out / "taskloom.json").read_text())
    assert record["resumed_shards"] == len(done)
    assert contents(out) == contents(whole)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_what_a_late_kill_left_is_made_again(pool, tmp_path):
    """All but the last step was done: the record is there, and must not list itself."""
    calls, out = calls_of(pool, tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        merged(pool, out, progress=Stop(calls, interrupt))
    left = tmp_path / "out.partial" / "model"
    for name in ("taskloom.json", "README.md", "stale.txt"):
        (left / name).write_text("left by a run that was killed")
    (left / "heads").mkdir()
    merged(pool, out)
    assert contents(out) == contents(tmp_path / "counted" / "out")
    assert verify(out, sample=1).tensors == 7


class Stop:
    """A progress that does something once, at a certain call."""

    def __init__(self, at, what):
        self.at, self.what, self.calls = at, what, 0

    def __call__(self, label, done, total):
        self.calls += 1
        if self.calls == self.at:
            self.what()


def calls_of(pool, tmp_path):
    counting = Stop(0, None)
    merged(pool, tmp_path / "counted" / "out", progress=counting)
    return counting.calls


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_late_says_how_to_go_on(pool, tmp_path):
    calls, out = calls_of(pool, tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match=r"shards are kept in .*: the same command continues"):
        merged(pool, out, progress=Stop(calls, interrupt))
    assert not out.exists()
    kept = len(journal(out))
    assert kept > 0
    merged(pool, out)
    assert json.loads((out / "taskloom.json").read_text())["resumed_shards"] == kept
    assert contents(out) == contents(tmp_path / "counted" / "out")


def test_interrupted_early_leaves_nothing(pool, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        merged(pool, tmp_path / "out", progress=Stop(1, interrupt))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []


def test_changes_are_noticed(pool, tmp_path):
    calls, out = calls_of(pool, tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        merged(pool, out, progress=Stop(calls, interrupt))
    with pytest.raises(OutputError, match="another recipe"):
        merged(pool, out, density=0.4)
    with pytest.raises(OutputError, match="another recipe"):
        merged(pool, out, max_shard_bytes=SHARD * 2)
    os.utime(pool[1][0] / "model.safetensors")
    with pytest.raises(OutputError, match="other inputs"):
        merged(pool, out)
    assert len(journal(out)) > 0
    merged(pool, out, discard=True)
    assert contents(out)[0] == contents(tmp_path / "counted" / "out")[0]


def test_two_runs_into_one_output(pool, tmp_path):
    out = tmp_path / "out"
    said = []

    def again():
        with pytest.raises(OutputError, match="being written by another run"):
            merged(pool, out)
        said.append(True)

    merged(pool, out, progress=Stop(3, again))
    assert said == [True]


def test_an_existing_output_survives_until_the_new_one_is_whole(pool, tmp_path):
    out = tmp_path / "out"
    merged(pool, out, density=0.9)
    before = contents(out)
    with pytest.raises(OutputError, match="exists"):
        merged(pool, out)

    def fail():
        assert contents(out) == before
        raise RuntimeError("a failing listener")

    with pytest.raises(RuntimeError, match="a failing listener"):
        merged(pool, out, overwrite=True, progress=Stop(5, fail))
    assert contents(out) == before
    merged(pool, out, overwrite=True)
    assert contents(out) != before


def test_verify(pool, tmp_path):
    out = tmp_path / "out"
    merged(pool, out)
    assert len(verify(out, sample=2).recomputed) == 2
    everything = verify(out, everything=True)
    assert everything.tensors == 7
    assert len(everything.recomputed) == 7


@pytest.mark.parametrize("place", ["header", "first tensor", "last tensor", "config"])
def test_a_flipped_byte_is_caught(pool, tmp_path, place):
    (pool[0] / "config.json").write_text('{"model_type": "bert"}')
    out = tmp_path / "out"
    merged(pool, out)
    shard = sorted(out.glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    if place == "config":
        (out / "config.json").write_text('{"model_type": "gpt2"}')
        wanted = "config.json"
    elif place == "header":
        at = data.index(b'"pt"') + 1
        data[at] ^= 1
        wanted = shard.name
    else:
        wanted = names[0] if place == "first tensor" else names[-1]
        data[8 + length + header[wanted]["data_offsets"][0]] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=wanted):
        verify(out)


def test_a_changed_source_is_caught(pool, tmp_path):
    out = tmp_path / "out"
    merged(pool, out)
    path = pool[1][0] / "model.safetensors"
    path.unlink()
    path.parent.rename(path.parent.with_name("old"))
    save(path.parent, make_weights(77, torch.bfloat16))
    with pytest.raises(IntegrityError, match="not the one that was merged: it has other bytes"):
        verify(out)
