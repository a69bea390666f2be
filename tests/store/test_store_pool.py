"""The pool: experts that belong together, and clear words about those that do not."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from taskloom.errors import CheckpointError
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.pool import Expert, Pool, kind_class, open_pool


def weights(fill=0.0):
    return {
        "encoder.weight": torch.full((2, 3), fill),
        "steps": torch.tensor(7),
        "encoder.bias": torch.full((3,), fill, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
    }


def directory(path, tensors):
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    return path


def test_a_pool_of_everything(tmp_path):
    base = directory(tmp_path / "base", weights())
    expert = Expert("mine", MemoryCheckpoint(weights(1.0)), task="trec6", provenance={"seed": 0})
    pool = open_pool(base, [directory(tmp_path / "a" / "sms", weights(2.0)), weights(3.0), expert])
    assert pool.names == ("sms", "expert-2", "mine")
    assert len(pool) == 3
    assert [e.name for e in pool] == ["sms", "expert-2", "mine"]
    assert pool.expert("mine") is not None
    assert pool.expert("mine").task == "trec6"
    assert pool.expert("mine").provenance == {"seed": 0}
    assert pool.yardstick is pool.base
    assert set(pool.parameters()) == {"encoder.weight", "encoder.bias"}
    assert set(pool.passthrough()) == {"steps", "mask"}


def test_order_is_the_bases():
    base, other = weights(), dict(reversed(weights().items()))
    pool = open_pool(base, [other])
    assert pool.parameters() == ("encoder.weight", "encoder.bias")
    assert pool.passthrough() == ("steps", "mask")
    assert list(pool.tensors) == list(base)


def test_without_a_base_the_first_expert_is_the_yardstick():
    pool = open_pool(None, [weights(), weights(1.0)])
    assert pool.base is None
    assert pool.yardstick is pool.experts[0].checkpoint
    with pytest.raises(CheckpointError, match=r"expert 'expert-2' .* as in expert 'expert-1'"):
        open_pool(None, [weights(), {"x": torch.ones(1)}])


def test_modules_and_mixed_float_dtypes():
    base = nn.Linear(2, 2)
    pool = open_pool(base, [nn.Linear(2, 2).half(), nn.Linear(2, 2).to(torch.bfloat16)])
    assert pool.parameters() == ("weight", "bias")


def test_a_pool_is_frozen_and_travels_to_worker_processes(tmp_path):
    pool = open_pool(directory(tmp_path / "b", weights()), [directory(tmp_path / "e", weights())])
    with pytest.raises(AttributeError):
        pool.base = None
    again = pickle.loads(pickle.dumps(pool))
    assert again.names == pool.names
    assert torch.equal(again.base.read("encoder.weight"), pool.base.read("encoder.weight"))


# names


def test_given_names():
    experts = [weights(), Expert("old", MemoryCheckpoint(weights()), task="t")]
    pool = open_pool(None, experts, names=["a", "b"])
    assert pool.names == ("a", "b")
    assert pool.expert("b").task == "t"


def test_equal_last_parts_are_told_apart_by_their_paths(tmp_path):
    paths = [directory(tmp_path / where / "model", weights()) for where in "xy"]
    assert open_pool(None, paths).names == tuple(map(str, paths))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "two experts are called 'a'"),
        (["a"], r"one name per expert \(2\), found 1"),
        (["a", ""], "an expert has an empty name"),
    ],
)
def test_names_that_are_refused(names, message):
    with pytest.raises(CheckpointError, match=message):
        open_pool(None, [weights(), weights()], names=names)


def test_the_same_path_twice_needs_names(tmp_path):
    path = directory(tmp_path / "m", weights())
    with pytest.raises(CheckpointError, match="Give each expert its own name"):
        open_pool(None, [path, path])
    assert open_pool(None, [path, path], names=["a", "b"]).names == ("a", "b")


def test_an_unknown_expert():
    with pytest.raises(CheckpointError, match="Did you mean 'sms_spam'"):
        open_pool(None, [weights()], names=["sms_spam"]).expert("sms_spma")
    with pytest.raises(CheckpointError, match="There are: sms_spam"):
        open_pool(None, [weights()], names=["sms_spam"]).expert("zzz")


# what does not belong


def test_empty_pools():
    for base in (None, weights()):
        with pytest.raises(CheckpointError, match="the pool is empty"):
            open_pool(base, [])
    with pytest.raises(CheckpointError, match="the pool is empty"):
        Pool(None, ())


@pytest.mark.parametrize("experts", ["path", {"w": torch.ones(1)}])
def test_one_expert_that_is_no_list(experts):
    with pytest.raises(CheckpointError, match="Put the experts into a list"):
        open_pool(None, experts)


def without(name):
    return {n: t for n, t in weights().items() if n != name}


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (without("steps"), "'steps': expected as in base <memory>, found none"),
        (
            without("steps") | {"stepz": torch.tensor(7)},
            "'steps': expected .* the nearest name it has is 'stepz'",
        ),
        ({"mask": torch.ones(2).bool()}, "'encoder.weight' and 2 more: expected"),
        (weights() | {"head": torch.ones(1)}, "'head': found, but expected none"),
        (
            weights() | {"encoder.weight": torch.ones(3, 2)},
            r"'encoder.weight': expected shape \[2, 3\] as in base <memory>, found \[3, 2\]",
        ),
        (
            weights() | {"encoder.weight": torch.ones(2, 3, 1)},
            r"expected shape \[2, 3\] as in base <memory>, found \[2, 3, 1\]",
        ),
        (
            weights() | {"encoder.weight": torch.ones(2, 3).int()},
            r"kind float as in base <memory> \(torch.float32\), found torch.int32",
        ),
        (
            weights() | {"steps": torch.tensor(7.0)},
            r"kind integer .*, found torch.float32",
        ),
        (weights() | {"mask": torch.ones(2).int()}, "kind boolean .*, found torch.int32"),
    ],
)
def test_an_expert_that_does_not_fit(expert, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_pool(weights(), [weights(), expert], names=["good", "bad"])
    assert "expert 'bad' (<memory>)" in str(caught.value)
    assert caught.value.hint


def test_a_directory_is_named_in_the_message(tmp_path):
    bad = directory(tmp_path / "bad", without("steps"))
    with pytest.raises(CheckpointError, match="'bad'") as caught:
        open_pool(weights(), [bad])
    assert str(bad) in str(caught.value)


def test_integers_of_other_widths_are_of_one_kind():
    assert open_pool(weights(), [weights() | {"steps": torch.tensor(7, dtype=torch.int32)}])


def test_complex_numbers_are_refused():
    with pytest.raises(CheckpointError, match=r"'w': expected floating-point, .* torch\.complex64"):
        open_pool(None, [{"w": torch.ones(1, dtype=torch.complex64)}])
    assert kind_class("float8_e5m2", where="") == "float"


def test_an_untied_head_is_not_taken_for_the_tied_one():
    shared = torch.ones(2, 2)
    base = {"embedding": shared, "head": shared}
    assert open_pool(base, [{"embedding": torch.ones(2, 2)}])
    with pytest.raises(CheckpointError) as caught:
        open_pool(base, [{"embedding": torch.ones(2, 2), "head": torch.zeros(2, 2)}])
    assert str(caught.value) == (
        "expert 'expert-1' (<memory>): tensor 'head' is tied to 'embedding' in the base <memory>, "
        "which stores the two once, but here it is a tensor of its own with other values. Save the "
        "base untied (with 'head' as a copy of 'embedding' and tie_word_embeddings false), so that "
        "the two are merged separately, or tie the expert"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_of_a_tied_state_dict_is_taken_as_tied(dtype):
    shared = torch.arange(12, dtype=dtype).reshape(6, 2)
    base = {"embedding": shared, "head": shared, "scale": torch.tensor(1.0)}
    copied = {name: value.clone() + 1 for name, value in base.items()}
    pool = open_pool(base, [copied])
    checkpoint = pool.experts[0].checkpoint
    assert list(checkpoint.tensors) == ["embedding", "scale"]
    assert dict(checkpoint.aliases) == {"head": "embedding"}
    assert torch.equal(checkpoint.read("embedding", slice(1, 3)), copied["embedding"][1:3])
    assert checkpoint.path is None
    assert len(checkpoint.digest()) == 64
    with pytest.raises(CheckpointError, match="no tensor 'head'"):
        checkpoint.read("head")


def test_tied_directories(tmp_path):
    table = torch.randn(5, 3)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    folders = {}
    for name, held in {
        "base": {embedding: table},
        "copied": {embedding: table + 1, head: table + 1},
        "untied": {embedding: table + 1, head: table + 2},
        "narrow": {embedding: table + 1, head: torch.zeros(4, 3)},
    }.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        save_file(held, folders[name] / "model.safetensors")
    pool = open_pool(folders["base"], [folders["copied"]])
    assert list(pool.experts[0].checkpoint.tensors) == [embedding]
    assert pool.experts[0].checkpoint.path == folders["copied"]
    with pytest.raises(CheckpointError, match=r"'untied' .* is tied to 'model\.embed_tokens\.weight'"):
        open_pool(folders["base"], [folders["untied"]])
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight': found, but expected none"):
        open_pool(folders["base"], [folders["narrow"]])
    (folders["base"] / "config.json").write_text('{"tie_word_embeddings": false}')
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight': found, but expected none"):
        open_pool(folders["base"], [folders["copied"]])
