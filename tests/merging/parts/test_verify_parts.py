"""taskloom verify of parts and of restored tasks."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import taskloom
from taskloom.errors import CheckpointError, IntegrityError
from taskloom.merging.parts import merge_parts
from taskloom.merging.restore import restore_task

METHODS = ("emr", "tall_masks", "twin_merging")


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(30, 20, generator=generator), "b": torch.randn(9, generator=generator)}


def on_disk(folder, tensors):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def names(folder):
    """What lies there, beside the cache, which may appear when a digest is kept."""
    return sorted(path.name for path in folder.iterdir() if path.name != "taskloom-cache")


@pytest.fixture
def pool(tmp_path, cache):
    base = on_disk(tmp_path / "base", weights(0))
    return base, {name: on_disk(tmp_path / name, weights(k)) for k, name in enumerate("xyz", 1)}


@pytest.mark.parametrize("method", METHODS)
def test_parts_as_they_were_written(pool, tmp_path, method):
    merge_parts(*pool, method, tmp_path / "parts", dtype="float16")
    before = names(tmp_path)
    found = taskloom.verify(tmp_path / "parts")
    assert (found.files, found.recomputed) == (5 if method == "twin_merging" else 4, ())
    assert found.notes == ("parts are made again as a whole or not at all; --all makes them again",)
    everything = taskloom.verify(tmp_path / "parts", everything=True)
    assert len(everything.recomputed) == everything.tensors >= 8
    assert everything.notes == ()
    assert names(tmp_path) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["shared", "task"])
def test_changed_parts_are_found(pool, tmp_path, method, part):
    merge_parts(*pool, method, tmp_path / "parts")
    table = json.loads((tmp_path / "parts" / "parts.json").read_text())
    path = tmp_path / "parts" / (table["shared"] if part == "shared" else table["tasks"]["y"]["file"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="the bytes are not those that were written"):
        taskloom.verify(tmp_path / "parts")
    path.unlink()
    with pytest.raises(IntegrityError, match="was written and is gone"):
        taskloom.verify(tmp_path / "parts")


def test_a_changed_source_is_found(pool, tmp_path):
    merge_parts(*pool, "twin_merging", tmp_path / "parts")
    changed = load_file(tmp_path / "y" / "model.safetensors")
    changed["w"][0, 0] += 1
    save_file(changed, tmp_path / "y" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"y/model\.safetensors: the source file is not the one"):
        taskloom.verify(tmp_path / "parts")


def test_parts_that_the_sources_do_not_give_are_found(pool, tmp_path):
    merge_parts(*pool, "emr", tmp_path / "parts")
    path = tmp_path / "parts" / "parts.json"
    table = json.loads(path.read_text())
    other = {**table, "options": {"variant": "released"}, "method": "tall_masks"}
    other["options"] = {}
    path.write_text(json.dumps(other))
    taskloom.verify(tmp_path / "parts")
    with pytest.raises(IntegrityError, match="the sources give other bytes"):
        taskloom.verify(tmp_path / "parts", everything=True)
    assert not list(tmp_path.glob(".parts*"))


def test_sources_in_memory(tmp_path):
    merge_parts(weights(0), [weights(1), weights(2)], "emr", tmp_path / "parts")
    assert taskloom.verify(tmp_path / "parts").notes == (
        "the weights were in memory, so nothing can be made of them again",
    )
    with pytest.raises(CheckpointError, match="in memory"):
        taskloom.verify(tmp_path / "parts", everything=True)


def test_a_record_that_says_too_little(pool, tmp_path):
    merge_parts(*pool, "emr", tmp_path / "parts")
    path = tmp_path / "parts" / "parts.json"
    table = json.loads(path.read_text())
    del table["inputs"]
    path.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="does not say what the parts were made of"):
        taskloom.verify(tmp_path / "parts")


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_task_is_made_again(pool, tmp_path, method):
    merge_parts(*pool, method, tmp_path / "parts")
    restore_task(tmp_path / "parts", pool[0], "y", tmp_path / "model")
    for everything in (False, True):
        found = taskloom.verify(tmp_path / "model", everything=everything)
        assert sorted(found.recomputed) == ["b", "w"]
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"the bytes of tensor '[bw]' are not those"):
        taskloom.verify(tmp_path / "model")


def test_a_restored_task_whose_parts_changed(pool, tmp_path):
    merge_parts(*pool, "twin_merging", tmp_path / "parts")
    restore_task(tmp_path / "parts", None, "y", tmp_path / "model")
    merge_parts(*pool, "twin_merging", tmp_path / "parts", overwrite=True, scale=0.7)
    with pytest.raises(IntegrityError, match="the source file is not the one that was merged"):
        taskloom.verify(tmp_path / "model")
