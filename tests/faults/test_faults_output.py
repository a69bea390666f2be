"""Outputs that exist, cannot be written, do not fit, or are written by two."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.store import atomic

from .conftest import weights

#: run the command line with a limit on the size of a file, which an output of that size exceeds
LIMITED = """
import resource, signal, sys
limit = int(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from taskloom.cli.main import main
main(sys.argv[2:])
"""


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def old(bench):
    """Something that is there already."""
    bench.out.mkdir()
    (bench.out / "old.txt").write_text("old")
    return bench.out


# ---- what exists


def test_an_output_that_exists(bench):
    folder = old(bench)
    bench.refused(7, str(folder), "exists", "--force")
    assert (folder / "old.txt").read_text() == "old"


def test_an_output_that_is_replaced_by_force(bench):
    folder = old(bench)
    assert bench.merge("--force")[0] == 0
    assert not (folder / "old.txt").exists(), "nothing of the old is left among the new"
    assert (folder / "model.safetensors").exists()


def test_an_old_shard_does_not_survive(bench):
    """Where mergekit writes into a directory with shards, two indexes' worth of files remain."""
    folder = old(bench)
    save_file(weights(9), folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert bench.merge("--force")[0] == 0
    assert not list(folder.glob("*index*"))
    assert [each.name for each in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_the_old_one_survives_a_merge_that_fails(bench):
    folder = old(bench)
    bench.edit("two", **{"model.norm.weight": torch.tensor([1.0, float("nan"), 0, 0])})
    bench.refused(9, "'model.norm.weight'", words=bench.words("--force"))
    assert (folder / "old.txt").read_text() == "old"


def test_the_old_one_survives_until_the_new_one_is_whole(bench, monkeypatch):
    """When they are exchanged the new one is complete; if that fails, the old one is still there."""
    folder = old(bench)
    seen = []

    def swap(temp, final, overwrite):
        seen.append(sorted(each.name for each in temp.iterdir()))
        assert (final / "old.txt").read_text() == "old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_swap_in", swap)
    bench.refused(7, str(folder), "full", words=bench.words("--force"))
    assert (folder / "old.txt").read_text() == "old"
    assert {"config.json", "model.safetensors", "taskloom.json"} <= set(seen[0])


def test_an_output_that_is_a_file(bench):
    bench.out.write_text("mine")
    bench.refused(7, str(bench.out), "is a file", words=bench.words("--force"))
    assert bench.out.read_text() == "mine"


def test_an_output_that_holds_the_working_folder(bench, monkeypatch):
    (bench.out / "deep").mkdir(parents=True)
    monkeypatch.chdir(bench.out / "deep")
    bench.refused(7, "would be deleted", words=bench.words("--force"))


def test_an_output_that_is_one_of_the_inputs(bench):
    """By force, the input would be deleted; it is read until then, so it survives a failure."""
    status, _, err = bench.merge("--force", out=bench.root / "one")
    assert status == 7, err
    assert "input" in err
    assert load_file(bench.file("one")).keys() == weights(1).keys()


# ---- disks


def test_a_disk_that_fills_up(bench):
    """A limit on the size of files, of half of what the output takes."""
    before = sorted(bench.root.iterdir())
    words = bench.words()
    found = run("-c", LIMITED, 400, *words, TASKLOOM_CACHE=str(bench.root.parent / "cache"))
    assert found.returncode == 7, found.stderr
    assert found.stderr.count("\n") == 1
    assert "full" in found.stderr
    assert str(bench.out) in found.stderr
    after = [each for each in sorted(bench.root.iterdir()) if each.name != "recipe.yaml"]
    assert after == before


def test_a_disk_that_fills_up_under_an_old_output(flags):
    folder = old(flags)
    found = run("-c", LIMITED, 400, *flags.words("--force"), TASKLOOM_CACHE=str(flags.root / "c"))
    assert found.returncode == 7, found.stderr
    assert [each.name for each in folder.iterdir()] == ["old.txt"]
    assert not (flags.root / "out.partial").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk(flags, small_disk):
    big = {"w": torch.ones(40_000)}
    for name in ("base", "one", "two"):
        save_file(big, flags.file(name))
    flags.refused(7, str(small_disk), "full", words=flags.words(out=small_disk / "out"))
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_too_small_is_known_before(flags, monkeypatch):
    usage = shutil.disk_usage(flags.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    flags.refused(7, "100 left", words=flags.words("--check"))


# ---- places that may not be written to


def test_a_read_only_target(bench, without_root):
    if not without_root:
        pytest.skip("root may write anywhere")
    closed = bench.root / "closed"
    closed.mkdir(mode=0o555)
    bench.refused(7, str(closed / "out"), words=bench.words(out=closed / "out"))


@pytest.mark.parametrize("error", [13, 1, 30])
def test_a_target_that_the_system_closes(bench, monkeypatch, error):
    """The same for root, to whom nothing is closed: the system's refusal, as it would come."""
    from pathlib import Path

    real = Path.mkdir

    def refuse(self, *words, **options):
        if self.is_relative_to(bench.root / "closed"):
            raise OSError(error, os.strerror(error), str(self))
        return real(self, *words, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    target = bench.root / "closed" / "out"
    bench.refused(7, str(target), os.strerror(error), words=bench.words(out=target))


def test_a_target_below_a_file(bench):
    (bench.root / "file").write_text("x")
    target = bench.root / "file" / "out"
    bench.refused(7, str(target), words=bench.words(out=target))


def test_a_target_in_an_object_store_that_is_not_known(bench, monkeypatch):
    monkeypatch.chdir(bench.root)
    bench.refused(7, "s4://", "unknown protocol 's4'", words=bench.words(out="s4://bucket/out"))


def test_a_name_that_is_too_long(bench):
    target = bench.root / ("x" * 300)
    bench.refused(7, "name", words=bench.words(out=target))


# ---- two runs


def test_two_runs_into_one_output(bench):
    work = bench.root / "out.partial"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bench.refused(7, str(bench.out), "another run")
    assert bench.merge()[0] == 0, "the lock of a run that has ended binds nobody"
    assert not work.exists()


def test_a_run_that_comes_second(flags):
    """Two processes at once: one makes the output, the other says why not."""
    words = ["-m", "taskloom.cli.main", *flags.words()]
    runs = [
        subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [each.communicate()[1].decode() for each in runs]
    codes = sorted(each.returncode for each in runs)
    assert codes == [0, 7], said
    assert any(word in "".join(said) for word in ("another run", "exists", "meantime"))
    assert flags.run("verify", flags.out)[0] == 0
    assert not (flags.root / "out.partial").exists()


def test_a_folder_beside_the_output_that_is_not_ours(bench):
    work = bench.root / "out.partial"
    work.mkdir()
    (work / "thesis.txt").write_text("mine")
    status, _, err = bench.merge()
    assert status == 7, err
    assert "thesis.txt" in err
    assert (work / "thesis.txt").read_text() == "mine"
