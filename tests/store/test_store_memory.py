"""Weights in memory and in pickles, and the one door to all of them."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from taskloom.errors import CheckpointError
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint, source_name
from taskloom.store.pickled import open_pickled
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)


def test_tensors_stay_the_objects_they_are():
    weight = torch.ones(3, 2, requires_grad=True)
    checkpoint = MemoryCheckpoint({"w": weight})
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.read("w") is weight
    (checkpoint.read("w", slice(1, None)) * 2).sum().backward()
    assert weight.grad.tolist() == [[0, 0], [2, 2], [2, 2]]
    assert checkpoint.label == "<memory>"
    assert MemoryCheckpoint({}, "mine").label == "mine"


@pytest.mark.parametrize("as_dict", [False, True])
def test_tied_weights_are_listed_once(as_dict):
    model = Tied()
    checkpoint = MemoryCheckpoint(model.state_dict() if as_dict else model)
    assert list(checkpoint.tensors) == ["steps", "embedding.weight"]
    assert checkpoint.aliases == {"head.weight": "embedding.weight"}
    if not as_dict:
        assert checkpoint.read("embedding.weight") is model.embedding.weight


def test_views_that_differ_are_not_tied():
    whole = torch.arange(6.0)
    views = {"a": whole, "b": whole[:3], "c": whole.view(2, 3), "d": whole.view(3, 2).T, "e": whole[3:]}
    assert list(MemoryCheckpoint(views).tensors) == list(views)
    empty = torch.zeros(0)
    assert list(MemoryCheckpoint({"a": empty, "b": empty}).tensors) == ["a", "b"]
    assert MemoryCheckpoint({"a": whole, "b": whole[:]}).aliases == {"b": "a"}


def test_rows_and_unknown_names():
    checkpoint = MemoryCheckpoint({"w": torch.arange(4), "s": torch.tensor(1.0)})
    assert checkpoint.read("w", slice(-2, None)).tolist() == [2, 3]
    with pytest.raises(ValueError, match="scalar"):
        checkpoint.read("s", slice(0, 1))
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        checkpoint.read("x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"w": 3}, "'w': expected a tensor, found int"),
        ({1: torch.ones(1)}, "expected strings as names, found 1"),
        ({"w": torch.ones(2).to_sparse()}, "'w': expected a dense tensor"),
        ({"w": torch.ones(2, device="meta")}, "'w' is on the meta device"),
    ],
)
def test_what_is_no_state_dict(source, message):
    with pytest.raises(CheckpointError, match=message):
        MemoryCheckpoint(source)


def test_digest_of_odd_strides_and_gradients():
    value = torch.randn(3, 4)
    digest = MemoryCheckpoint({"w": value}).digest()
    assert digest == MemoryCheckpoint({"w": value.T.contiguous().T.requires_grad_()}).digest()


# pickles


@pytest.fixture
def state():
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_file(tmp_path, state, legacy):
    file = tmp_path / "m.pt"
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    checkpoint = open_checkpoint(file, allow_pickle=True)
    assert checkpoint.label == str(file)
    assert checkpoint.digest() == MemoryCheckpoint(state).digest()
    with pytest.raises(CheckpointError, match=r"the weights are pickled, .* allow pickles"):
        open_checkpoint(file)


def test_pickled_directories(tmp_path, state):
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert list(open_checkpoint(tmp_path, allow_pickle=True).tensors) == ["a", "b"]
    with pytest.raises(CheckpointError, match="Convert them to safetensors"):
        open_checkpoint(tmp_path)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    torch.save({"a": state["a"]}, sharded / "1.bin")
    torch.save({"b": state["b"]}, sharded / "2.bin")
    index = sharded / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    opened = open_checkpoint(sharded, allow_pickle=True)
    assert opened.digest() == MemoryCheckpoint(state).digest()
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "../pytorch_model.bin"}}))
    with pytest.raises(CheckpointError, match="leaves it"):
        open_checkpoint(sharded, allow_pickle=True)
    index.write_text(json.dumps({"weight_map": {"a": "3.bin"}}))
    with pytest.raises(CheckpointError, match=r"3\.bin: there is no such file"):
        open_checkpoint(sharded, allow_pickle=True)


def test_safetensors_are_preferred_to_a_pickle_beside_them(tmp_path, state):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert isinstance(open_checkpoint(tmp_path), SafetensorsCheckpoint)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_wants_to_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, "m.pt")
    with pytest.raises(CheckpointError, match="expected a pickle of tensors alone"):
        open_checkpoint("m.pt", allow_pickle=True)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", bytes(100)])
def test_a_damaged_pickle(tmp_path, data):
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m\.bin: expected a pickle"):
        open_pickled(tmp_path / "m.bin")


def test_a_pickle_of_something_else(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="expected a state dict, found list"):
        open_pickled(tmp_path / "m.bin")


# the door


def test_everything_opens(tmp_path, state):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors")
    for source in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        assert isinstance(open_checkpoint(source), SafetensorsCheckpoint)
    for source in (state, nn.Linear(2, 2)):
        assert isinstance(open_checkpoint(source), MemoryCheckpoint)
    checkpoint = MemoryCheckpoint(state)
    assert open_checkpoint(checkpoint) is checkpoint


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(CheckpointError, match="expected weights, a path or a hub id, found int"):
        open_checkpoint(3)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"this is an adapter, .* Give the base"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("source", "name"),
    [("a/b/", "b"), ("o/m@v2", "m"), ("x/m.safetensors", "m"), ("llama-3.2", "llama-3.2"), ({}, None)],
)
def test_names(source, name):
    assert source_name(source) == name
