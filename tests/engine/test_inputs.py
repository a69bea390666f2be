"""Digests of input files: whole, made once, beside the merge; and what verify makes of them."""

import hashlib
import json
import os
import threading
import time

import numpy as np
import pytest
import torch

import taskloom
from taskloom.errors import CheckpointError, IntegrityError, OutputError, PlanError
from taskloom.merging import inputs
from taskloom.merging.build import _marks
from taskloom.merging.engine import Options
from taskloom.merging.plan import plan_program
from taskloom.merging.processes import FORKING
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.merging.verify import verify
from taskloom.merging.vocabulary import AlignedCheckpoint
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.pool import open_pool

from .models import make_weights, save, save_pool


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache that knows nothing."""
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pool(tmp_path):
    """Models that were written a while ago."""
    base, paths = save_pool(tmp_path / "models", count=2)
    for path in (base, *paths):
        age(path / "model.safetensors")
    time.sleep(0.15)  # the change time cannot be set, and what is new is not kept
    return base, paths


def age(path, seconds=60):
    before = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(before, before))


def record(folder):
    return json.loads((folder / "taskloom.json").read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def hashed(monkeypatch):
    """Names of the directories whose files are hashed."""
    found = []
    real = inputs.InputDigests._hash

    def spy(self, file):
        found.append(file.parent.name)
        return real(self, file)

    monkeypatch.setattr(inputs.InputDigests, "_hash", spy)
    return found


def merged(pool, out, **options):
    return taskloom.merge_files(pool[0], pool[1], "ties", out, **options)


@pytest.mark.parametrize("how", [{}, {"threads": 3}, {"workers": 2}, {"fused": False}])
def test_every_file_has_its_own_sha256(pool, tmp_path, how):
    merged(pool, tmp_path / "out", **how)
    entries = record(tmp_path / "out")["inputs"]
    files = [file for entry in entries for file in entry["files"]]
    assert len(files) == 3
    for file in files:
        path = tmp_path / "models" / file["path"].split("/")[-2] / "model.safetensors"
        assert file == {
            "path": str(path),
            "bytes": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
            "sha256": sha256(path),
        }


def test_shards_are_files(tmp_path):
    shapes = {f"w{n}": (40, 40) for n in range(4)}
    base, paths = save_pool(tmp_path / "models", count=1, shapes=shapes)
    taskloom.merge_files(None, [base], "average", tmp_path / "sharded", max_shard_bytes=4000)
    taskloom.merge_files(tmp_path / "sharded", paths, "task_arithmetic", tmp_path / "out")
    entries = {entry["label"]: entry["files"] for entry in record(tmp_path / "out")["inputs"]}
    shards = entries[str(tmp_path / "sharded")]
    assert len(shards) > 1
    for file in shards:
        assert file["sha256"] == sha256(tmp_path / "sharded" / file["path"].split("/")[-1])


def test_the_cache_knows_them_the_next_time(pool, tmp_path, hashed):
    merged(pool, tmp_path / "a")
    assert sorted(hashed) == ["base", "e1", "e2"]
    merged(pool, tmp_path / "b", density=0.7)
    assert sorted(hashed) == ["base", "e1", "e2"]
    assert record(tmp_path / "a")["inputs"] == record(tmp_path / "b")["inputs"]


@pytest.mark.parametrize("touch", [True, False])
def test_a_file_that_was_written_again_is_hashed_again(pool, tmp_path, hashed, touch):
    merged(pool, tmp_path / "a")
    path = pool[1][0] / "model.safetensors"
    mark = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(mark.st_mtime_ns, mark.st_mtime_ns + touch))  # the change time tells
    merged(pool, tmp_path / "b")
    assert sorted(hashed) == ["base", "e1", "e1", "e2"]
    (entry,) = (e for e in record(tmp_path / "b")["inputs"] if e["label"].endswith("e1"))
    assert entry["files"][0]["sha256"] == sha256(path)


@pytest.mark.parametrize("digests", ["output", "none"])
def test_nothing_is_hashed_if_it_is_not_wanted(pool, tmp_path, hashed, digests):
    merged(pool, tmp_path / "out", digests=digests)
    assert not hashed
    found = record(tmp_path / "out")
    assert not any("sha256" in file for entry in found["inputs"] for file in entry["files"])
    assert all("digest" not in entry for entry in found["inputs"])
    assert bool(found["outputs"]["digest"]) == (digests == "output")


def test_weights_in_memory_have_a_digest_of_their_own(pool, tmp_path):
    weights = make_weights(9, torch.bfloat16)
    taskloom.merge_files(pool[0], [weights], "task_arithmetic", tmp_path / "out")
    entry = next(e for e in record(tmp_path / "out")["inputs"] if not e["files"])
    assert entry["digest"] == open_pool(None, [weights]).experts[0].checkpoint.digest()


def test_an_adapter_is_its_files_and_those_of_its_base(tmp_path):
    shapes = {"model.layers.0.mlp.up_proj.weight": (8, 4), "model.norm.weight": (4,)}
    base = save(tmp_path / "base", make_weights(0, shapes=shapes))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 4), name.format("B"): torch.ones(8, 2)}
    folder = save(tmp_path / "adapter", factors)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    taskloom.merge_files(base, [folder], "task_arithmetic", tmp_path / "out")
    (entry,) = (e for e in record(tmp_path / "out")["inputs"] if e["label"].startswith(str(folder)))
    found = {file["path"].split("/")[-1]: file["sha256"] for file in entry["files"]}
    assert found == {
        "adapter_model.safetensors": sha256(folder / "adapter_model.safetensors"),
        "adapter_config.json": sha256(folder / "adapter_config.json"),
        "model.safetensors": sha256(base / "model.safetensors"),
    }
    # a base in memory has no files, so neither has what lies on it
    above = open_pool(make_weights(0, shapes=shapes), [folder]).experts[0].checkpoint
    assert isinstance(above, AdapterCheckpoint)
    assert above.files == ()


def test_a_merge_that_is_refused_stops_hashing(pool, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    real = inputs.hashlib.sha256

    class Slow:
        def __init__(self, data=b""):
            self.state = real(data)

        def update(self, piece):
            time.sleep(0.2)
            self.state.update(piece)

        def hexdigest(self):
            return self.state.hexdigest()

    monkeypatch.setattr(inputs, "_CHUNK", 1)
    monkeypatch.setattr(inputs.hashlib, "sha256", Slow)
    before = time.monotonic()
    with pytest.raises(OutputError, match="exists"):
        merged(pool, tmp_path / "out")
    assert time.monotonic() - before < 5
    assert not [t for t in threading.enumerate() if t.name.startswith("taskloom-digests")]


def plan_of(pool):
    return plan_program(program_of(open_pool(*pool), Recipe.of("ties").chain))


def test_a_file_that_changes_while_it_is_hashed_is_refused(pool):
    with inputs.InputDigests(plan_of(pool), wanted=True) as digests:
        os.utime(pool[0] / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"base/model.safetensors: the file changed while"):
            digests.describe()


def test_a_file_that_is_gone_is_named(pool):
    digests = inputs.InputDigests(plan_of(pool), wanted=True)
    (pool[0] / "model.safetensors").rename(pool[0] / "other")
    wanted = r"base/model.safetensors: cannot be read: No such"
    with pytest.raises(CheckpointError, match=wanted), digests:
        pass
    with pytest.raises(CheckpointError, match=wanted):
        digests._hash(pool[0] / "model.safetensors")


def test_no_piece_is_hashed_while_the_process_is_copied(pool):
    with inputs.InputDigests(plan_of(pool), wanted=True, threads=4, forks=True) as digests:
        with FORKING:
            done = [f for f in digests._found.values() if not isinstance(f, str) and f.done()]
            time.sleep(0.1)
            assert [f for f in digests._found.values() if not isinstance(f, str) and f.done()] == done
        assert len(digests.describe()) == 3


class TestVerify:
    def flip(self, path):
        mark = path.stat()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        return mark

    def test_as_it_was(self, pool, tmp_path):
        merged(pool, tmp_path / "out")
        assert verify(tmp_path / "out").notes == ()
        assert verify(tmp_path / "out", everything=True).notes == ()

    def test_a_changed_source_is_told_by_file(self, pool, tmp_path):
        merged(pool, tmp_path / "out")
        path = pool[1][1] / "model.safetensors"
        self.flip(path)
        with pytest.raises(IntegrityError, match=rf"^{path}: .* it has other bytes"):
            verify(tmp_path / "out", sample=0)

    def test_one_that_hides_its_time_is_found_by_all(self, pool, tmp_path):
        merged(pool, tmp_path / "out")
        path = pool[1][1] / "model.safetensors"
        mark = self.flip(path)
        os.utime(path, ns=(mark.st_mtime_ns, mark.st_mtime_ns))
        with pytest.raises(IntegrityError, match=rf"^{path}: .* it has other bytes"):
            verify(tmp_path / "out", everything=True)

    def test_the_same_bytes_with_another_time_are_the_same(self, pool, tmp_path):
        merged(pool, tmp_path / "out")
        os.utime(pool[0] / "model.safetensors")
        assert verify(tmp_path / "out").notes == ()

    def test_a_file_of_another_size_or_none(self, pool, tmp_path):
        merged(pool, tmp_path / "out")
        entry = record(tmp_path / "out")["inputs"][0]["files"][0]
        assert inputs.changed_file({**entry, "bytes": 3}, always=False).startswith("has ")
        assert inputs.changed_file({**entry, "path": entry["path"] + "x"}, always=False) == "is gone"

    def test_without_digests_it_says_so(self, pool, tmp_path):
        merged(pool, tmp_path / "out", digests="output")
        assert verify(tmp_path / "out").notes == ()
        os.utime(pool[0] / "model.safetensors")
        (note,) = verify(tmp_path / "out").notes
        assert note.endswith("base/model.safetensors has another time, and its bytes were not hashed")

    def test_a_device_that_is_not_here(self, pool, tmp_path):
        if torch.cuda.is_available():
            pytest.skip("there is one")
        merged(pool, tmp_path / "out")
        path = tmp_path / "out" / "taskloom.json"
        found = record(tmp_path / "out") | {"device": {"type": "cuda", "slice_elements": 64}}
        path.write_text(json.dumps(found))
        with pytest.raises(PlanError, match=r"merged on a device of the type 'cuda'.*--sample 0"):
            verify(tmp_path / "out")
        assert verify(tmp_path / "out", sample=0).tensors == 7


def test_options_say_where_steps_run():
    assert not Options().by_device
    assert Options(device="cuda").by_device
    assert Options(device_path=True).by_device


class TestStores:
    @pytest.fixture
    def url(self, pool):
        """The base as an object of a store."""
        fsspec = pytest.importorskip("fsspec")
        store = fsspec.filesystem("memory")
        store.pipe("/inputs/base/model.safetensors", (pool[0] / "model.safetensors").read_bytes())
        yield "memory://inputs/base"
        store.rm("/inputs", recursive=True)

    def test_an_object_is_known_by_the_mark_of_its_store(self, pool, tmp_path, url, hashed):
        taskloom.merge_files(url, pool[1], "task_arithmetic", tmp_path / "out")
        (entry,) = (e for e in record(tmp_path / "out")["inputs"] if "objects" in e)
        (found,) = entry["objects"]
        assert found["url"] == "memory://inputs/base/model.safetensors"
        assert found["bytes"] == (pool[0] / "model.safetensors").stat().st_size
        assert found["mark"]
        assert entry["files"] == []
        assert "digest" not in entry  # that would read all of it once more
        assert sorted(hashed) == ["e1", "e2"]
        assert verify(tmp_path / "out").notes == ()

    def test_an_object_that_was_written_again(self, pool, tmp_path, url):
        import fsspec

        taskloom.merge_files(url, pool[1], "task_arithmetic", tmp_path / "out")
        data = (pool[0] / "model.safetensors").read_bytes()
        fsspec.filesystem("memory").pipe("/inputs/base/model.safetensors", data)
        with pytest.raises(IntegrityError, match="the objects are not those that were merged"):
            verify(tmp_path / "out", sample=0)


def test_rows_placed_otherwise_are_another_input(pool):
    """Of one file and two vocabularies, a merge that was interrupted must not go on."""
    inner = open_pool(None, [pool[0]]).experts[0].checkpoint
    rows = [np.arange(17), np.arange(17), np.arange(17)[::-1]]
    made = [AlignedCheckpoint(inner, ["matrix"], places, None) for places in rows]
    assert made[0].files == inner.files
    assert made[0].placement == made[1].placement != made[2].placement
    assert _marks(made[0]) == _marks(made[1]) != _marks(made[2])
