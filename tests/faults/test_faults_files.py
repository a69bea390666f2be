"""Files that are damaged, made to mislead, or lead elsewhere, met by a merge."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from .conftest import UP, raw_file, weights

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_a_truncated_file(bench):
    whole = bench.file("two").read_bytes()
    for kept in (0, 4, 100, len(whole) - 1):
        bench.file("two").write_bytes(whole[:kept])
        bench.refused(3, str(bench.file("two")), "byte")


def test_a_file_with_bytes_behind_its_end(bench):
    with bench.file("one").open("ab") as stream:
        stream.write(b"more")
    bench.refused(3, str(bench.file("one")), "bytes")


def test_a_header_larger_than_the_file(bench):
    for length in (10**6, 2**63, 2**64 - 1):
        raw_file(bench.file("two"), {"w": F32}, bytes(8), length=length)
        bench.refused(3, str(bench.file("two")), str(length))


@pytest.mark.parametrize(
    ("entry", "data", "said"),
    [
        ({"a": F32, "b": F32}, 8, "inside 'a'"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12, "inside 'a'"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, 8, "[-8, 0]"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, 8, "[8, 0]"),
        ({"a": {**F32, "data_offsets": [8, 16]}}, 16, "gap"),
        ({"a": {**F32, "data_offsets": [0, 4]}}, 4, "takes 8 bytes"),
        ({"a": {**F32, "data_offsets": [0, 8, 16]}}, 16, "[begin, end]"),
        ({"a": F32}, 4, "truncated"),
        ({"a": {**F32, "shape": [-2]}}, 8, "[-2]"),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, 8, "larger than any memory"),
        ({"a": {**F32, "shape": [0, 2**70]}}, 8, "larger than any memory"),
        ({"a": {**F32, "shape": [1] * 65 + [2]}}, 8, "shape"),
        ({"a": {**F32, "shape": [2.0]}}, 8, "[2.0]"),
        ({"a": {**F32, "shape": [True, 2]}}, 8, "True"),
        ({"a": {**F32, "dtype": "F31"}}, 8, "'F31'"),
        ({"a": {**F32, "more": 1}}, 8, "exactly dtype, shape and data_offsets"),
        ({"a": F32, "__metadata__": {"x": 1}}, 8, "metadata"),
        ([1, 2], 8, "JSON object"),
        (b'{"a": ', 8, "JSON"),
        (b"\xff\xfe", 8, "UTF-8"),
    ],
)
def test_a_header_that_cannot_be_true(flags, entry, data, said):
    raw_file(flags.file("one"), entry, bytes(data))
    flags.refused(3, str(flags.file("one")), said)


def test_a_key_given_twice(bench):
    one = json.dumps(F32).encode()
    raw_file(bench.file("one"), b'{"a":' + one + b',"a":' + one + b"}", bytes(8))
    bench.refused(3, str(bench.file("one")), "'a' is given twice")


def test_no_weights_at_all(bench):
    bench.file("one").unlink()
    bench.refused(3, str(bench.root / "one"), "model.safetensors")


def test_a_folder_that_is_not_there(flags):
    words = [word.replace("/two", "/tow") for word in flags.words()]
    flags.refused(3, "/tow", words=words)


# ---- bytes flipped after writing


@pytest.mark.parametrize("place", [-1, -17, 4000])
def test_flipped_bytes_of_an_output_are_caught(bench, place):
    """In the last tensor, in another, and in the configuration."""
    assert bench.merge()[0] == 0
    assert bench.run("verify", bench.out)[0] == 0
    path = bench.out / ("config.json" if place == 4000 else "model.safetensors")
    held = bytearray(path.read_bytes())
    at = 20 if place == 4000 else place
    held[at] ^= 1
    path.write_bytes(held)
    status, out, err = bench.run("verify", bench.out)
    assert (status, out) == (6, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "config.json" in err if place == 4000 else "tensor 'model." in err


def test_flipped_bytes_of_an_input_are_caught(bench):
    assert bench.merge()[0] == 0
    held = bytearray(bench.file("two").read_bytes())
    held[-3] ^= 1
    bench.file("two").write_bytes(held)
    status, _, err = bench.run("verify", bench.out)
    assert status == 6
    assert "two" in err


# ---- paths that leave the directory


def shard(bench, name, path):
    """Make a model sharded, with one tensor's shard said to be at ``path``."""
    held = load_file(bench.file(name))
    bench.file(name).unlink()
    save_file(held, bench.root / name / "a.safetensors")
    index = {"weight_map": dict.fromkeys(held, "a.safetensors") | {UP: path}}
    (bench.root / name / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["absolute", "above", "below and above", "link", "linked folder"])
def test_a_weight_map_that_leaves_the_directory(bench, kind):
    secret = bench.root / "secret"
    secret.mkdir()
    save_file({UP: torch.ones(8, 4)}, secret / "s.safetensors")
    (bench.root / "one" / "sub").mkdir()
    (bench.root / "one" / "l.safetensors").symlink_to(secret / "s.safetensors")
    (bench.root / "one" / "linked").symlink_to(secret)
    path = {
        "absolute": str(secret / "s.safetensors"),
        "above": "../secret/s.safetensors",
        "below and above": "sub/../../secret/s.safetensors",
        "link": "l.safetensors",
        "linked folder": "linked/s.safetensors",
    }[kind]
    shard(bench, "one", path)
    bench.refused(3, "model.safetensors.index.json", path)


def test_weights_that_are_a_link_to_the_outside(bench):
    save_file(weights(1), bench.root / "elsewhere.safetensors")
    bench.file("one").unlink()
    bench.file("one").symlink_to(bench.root / "elsewhere.safetensors")
    bench.refused(3, "model.safetensors", "elsewhere")


def test_a_shard_that_is_missing(bench):
    shard(bench, "one", "b.safetensors")
    bench.refused(3, "'b.safetensors'", repr(UP))


def test_an_index_and_shards_that_disagree(bench):
    shard(bench, "one", "a.safetensors")
    index = bench.root / "one" / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    del table["weight_map"][UP]
    index.write_text(json.dumps(table))
    bench.refused(3, str(index), repr(UP))


def test_a_configuration_that_is_a_link_to_the_outside(flags):
    """A template's file is copied into the output; a link would carry a stranger's choice of file."""
    (flags.root / "secret.json").write_text('{"password": 1}')
    (flags.root / "base" / "tokenizer_config.json").symlink_to(flags.root / "secret.json")
    flags.refused(3, "tokenizer_config.json", "secret.json")


# ---- adapters


def adapter(bench, name="one", **changes):
    """Replace a model by an adapter of the base."""
    folder = bench.root / name
    bench.file(name).unlink()
    (folder / "config.json").unlink()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "/etc/passwd"}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    module = "base_model.model." + UP.removesuffix(".weight")
    factors = {f"{module}.lora_A.weight": torch.ones(2, 4), f"{module}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_is_merged_with_the_base_that_is_given(flags):
    """And not with the one that its configuration names, which may be anywhere."""
    adapter(flags)
    assert flags.merge("--set", "scale=1")[0] == 0
    base, two = weights(0)[UP], weights(2)[UP]
    merged = load_file(flags.out / "model.safetensors")[UP]
    torch.testing.assert_close(merged, base + 2.0 + (two - base))


def test_an_adapter_whose_weights_lead_elsewhere(flags):
    folder = adapter(flags)
    (folder / "adapter_model.safetensors").rename(flags.root / "far.safetensors")
    (folder / "adapter_model.safetensors").symlink_to(flags.root / "far.safetensors")
    flags.refused(3, "adapter_model.safetensors", "far.safetensors")


def test_an_adapter_whose_configuration_leads_elsewhere(flags):
    folder = adapter(flags)
    (folder / "adapter_config.json").rename(flags.root / "far.json")
    (folder / "adapter_config.json").symlink_to(flags.root / "far.json")
    flags.refused(3, "adapter_config.json", "far.json")


def test_an_adapter_that_is_not_plain_lora(flags):
    adapter(flags, use_dora=True)
    flags.refused(3, "adapter_config.json", "'use_dora'")


def test_an_adapter_of_another_base(flags):
    adapter(flags)
    flags.edit("base", **{UP: torch.ones(9, 4)})
    flags.refused(3, str(flags.root / "one"), "another base")


# ---- pickles


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled(bench, held):
    bench.file("one").unlink()
    torch.save(held, bench.root / "one" / "pytorch_model.bin")


def test_a_pickle(bench):
    pickled(bench, weights(1))
    bench.refused(3, str(bench.root / "one"), "pickled", "--allow-pickle")


def test_a_pickle_that_is_allowed(bench):
    pickled(bench, weights(1))
    assert bench.merge("--allow-pickle")[0] == 0
    safe = bench.root / "safe"
    safe.mkdir()
    one = bench.root / "one"
    save_file(weights(1), one / "model.safetensors")
    (one / "pytorch_model.bin").unlink()
    assert bench.merge(out=safe / "out")[0] == 0
    files = [folder / "model.safetensors" for folder in (bench.out, safe / "out")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_pickle_that_runs_code(bench):
    trap = bench.root / "trap"
    pickled(bench, weights(1) | {"bomb": Bomb(trap)})
    bench.refused(3, "pytorch_model.bin", words=bench.words("--allow-pickle"))
    assert not trap.exists()


def test_a_pickle_dressed_as_safetensors(bench):
    trap = bench.root / "trap"
    bench.file("one").write_bytes(pickle.dumps(Bomb(trap)))
    bench.refused(3, str(bench.file("one")))
    assert not trap.exists()


def test_a_pickle_in_a_header(flags):
    text = pickle.dumps({"a": 1})
    flags.file("one").write_bytes(struct.pack("<Q", len(text)) + text)
    flags.refused(3, str(flags.file("one")), "header")
