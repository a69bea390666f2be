"""Safetensors: what is stored comes back, and what cannot be true is refused."""

from __future__ import annotations

import json
import pickle
import struct
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskloom.errors import CheckpointError
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.header import DTYPES, read_header
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


def sample(dtype, shape=(3, 4)):
    """Return a tensor of any dtype from arbitrary but fixed bytes."""
    if dtype == torch.bool:
        return torch.arange(12).reshape(shape) % 3 == 0
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = (torch.arange(count) * 37 % 120).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def raw_equal(a, b):
    same = a.dtype == b.dtype and a.shape == b.shape
    a, b = a.reshape(-1), b.reshape(-1)
    return same and a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))


def raw_file(path, header, data=b"", *, length=None):
    """Write a safetensors file by hand, as malformed as asked for."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def shards(folder, parts, weight_map=None):
    """Write shards and an index; return the folder."""
    folder.mkdir(exist_ok=True)
    mapping = {}
    for shard, tensors in parts.items():
        save_file(tensors, folder / shard)
        mapping |= dict.fromkeys(tensors, shard)
    table = {"metadata": {}, "weight_map": mapping if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    return folder


# what is stored comes back


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_every_dtype(tmp_path, dtype):
    value = sample(getattr(torch, dtype))
    save_file({"w": value}, tmp_path / "w.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path / "w.safetensors")
    assert checkpoint.tensors["w"] == TensorInfo((3, 4), dtype)
    assert raw_equal(checkpoint.read("w"), value)
    assert raw_equal(checkpoint.read("w", slice(1, 3)), value[1:3])


def test_scalars_and_empty_tensors(tmp_path):
    tensors = {"s": torch.tensor(3.5), "e": torch.zeros(0, 4), "f": torch.zeros(4, 0)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path)
    for name, value in tensors.items():
        assert raw_equal(checkpoint.read(name), value)
    assert checkpoint.read("f", slice(1, 3)).shape == (2, 0)
    assert checkpoint.read("e", slice(0, 9)).shape == (0, 4)
    with pytest.raises(ValueError, match="'s' is a scalar and has no rows"):
        checkpoint.read("s", slice(0, 1))


def test_it_is_a_checkpoint(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.label == str(tmp_path)
    assert checkpoint.path == tmp_path
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.files == (tmp_path / "model.safetensors",)


def test_what_is_read_belongs_to_the_reader(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    checkpoint = SafetensorsCheckpoint(tmp_path)
    checkpoint.read("w").zero_()
    assert checkpoint.read("w").tolist() == [1, 1]


@given(data=st.data(), size=st.integers(0, 20), width=st.integers(1, 3))
def test_rows_are_python_slices(tmp_path_factory, data, size, width):
    value = torch.arange(size * width, dtype=torch.int16).reshape(size, width)
    file = tmp_path_factory.getbasetemp() / "rows.safetensors"
    save_file({"first": torch.ones(3), "w": value}, file)
    bound = st.none() | st.integers(-25, 25)
    rows = slice(data.draw(bound), data.draw(bound))
    assert torch.equal(SafetensorsCheckpoint(file).read("w", rows), value[rows])


def test_rows_with_a_step_are_refused(tmp_path):
    save_file({"w": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="step 1, not 2"):
        SafetensorsCheckpoint(tmp_path).read("w", slice(0, 4, 2))


def test_only_the_rows_asked_for_are_read(tmp_path, monkeypatch):
    from taskloom.store import safetensors_dir

    save_file({"w": torch.ones(1000, 10)}, tmp_path / "model.safetensors")
    checkpoint, asked = SafetensorsCheckpoint(tmp_path), []
    fill = safetensors_dir._fill
    monkeypatch.setattr(
        safetensors_dir, "_fill", lambda *args: (asked.append(len(args[3])), fill(*args))
    )
    checkpoint.read("w", slice(500, 503))
    assert asked == [3 * 10 * 4]


def test_shards(tmp_path):
    parts = {
        "model-00001-of-00002.safetensors": {"b": torch.ones(2), "c": torch.zeros(3)},
        "model-00002-of-00002.safetensors": {"a": torch.full((2, 2), 7.0)},
    }
    checkpoint = SafetensorsCheckpoint(shards(tmp_path / "m", parts))
    assert list(checkpoint.tensors) == ["b", "c", "a"]
    assert checkpoint.read("a").tolist() == [[7, 7], [7, 7]]
    assert [file.name for file in checkpoint.files] == list(parts)
    assert checkpoint.metadata == {}


def test_many_threads_and_processes_share_one(tmp_path):
    tensors = {f"w{i}": torch.full((50, 50), float(i)) for i in range(20)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = pickle.loads(pickle.dumps(SafetensorsCheckpoint(tmp_path)))
    wrong = []

    def work():
        for _ in range(5):
            for name, value in tensors.items():
                if not torch.equal(checkpoint.read(name, slice(10, 40)), value[10:40]):
                    wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_name_that_is_not_there(tmp_path):
    save_file({"encoder.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no tensor 'encoder\.wieght'.*'encoder\.weight'"):
        SafetensorsCheckpoint(tmp_path).read("encoder.wieght")


# digests


def test_digest_does_not_depend_on_how_it_is_stored(tmp_path, cache):
    a, b = torch.randn(4, 3), torch.arange(5)
    one = tmp_path / "one.safetensors"
    save_file({"a": a, "b": b}, one, {"note": "anything"})
    two = shards(tmp_path / "two", {"x.safetensors": {"b": b}, "y.safetensors": {"a": a}})
    digest = SafetensorsCheckpoint(one).digest()
    assert len(digest) == 64
    assert digest == SafetensorsCheckpoint(two).digest() == MemoryCheckpoint({"b": b, "a": a}).digest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(0)},
    ],
    ids=["value", "name", "shape", "dtype", "more"],
)
def test_digest_tells_different_weights_apart(other):
    one = MemoryCheckpoint({"a": torch.tensor([1.0, 2.0])})
    assert one.digest() != MemoryCheckpoint(other).digest()


def test_digest_is_remembered_until_the_file_changes(tmp_path, cache, monkeypatch):
    import os

    from taskloom.store import digest

    monkeypatch.setattr(digest, "_SETTLED_NS", 0)
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(3)}, file)
    first = SafetensorsCheckpoint(tmp_path).digest()
    monkeypatch.setattr(SafetensorsCheckpoint, "_digest", lambda self: "computed anew")
    assert SafetensorsCheckpoint(tmp_path).digest() == first
    before = os.stat(file)
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert SafetensorsCheckpoint(tmp_path).digest() == "computed anew", "even with its old time"


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"digest": 3}', b"\xff"])
def test_a_damaged_record_is_not_trusted(tmp_path, cache, monkeypatch, junk):
    from taskloom.store import digest

    monkeypatch.setattr(digest, "_SETTLED_NS", 0)
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    first = SafetensorsCheckpoint(tmp_path).digest()
    records = list((cache / "digests").iterdir())
    assert len(records) == 1
    records[0].write_bytes(junk)
    assert SafetensorsCheckpoint(tmp_path).digest() == first


def test_a_file_just_written_is_not_remembered(tmp_path, cache):
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    SafetensorsCheckpoint(tmp_path).digest()
    assert not (cache / "digests").exists()


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    from taskloom.store import digest

    monkeypatch.setattr(digest, "_SETTLED_NS", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "file"))
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    assert len(SafetensorsCheckpoint(tmp_path).digest()) == 64


# what cannot be true is refused

HOSTILE = {
    "shorter than a length": (b"", None, "found 4"),
    "header beyond the file": ({"w": entry()}, 10**6, "should have 1000000 bytes"),
    "absurd header": (b"{}", 2**63, "should have 9223372036854775808 bytes"),
    "no JSON": (b"{'w'}", None, "expected a JSON header"),
    "no UTF-8": (b'{"\xff": 1}', None, "expected a header in UTF-8, found byte 0xff"),
    "deep nesting": (b'{"w":' + b"[" * 200_000, None, "expected a JSON header"),
    "a list": ([], None, "expected a JSON object as header, found list"),
    "the same name twice": (
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        None,
        "'w' is given twice",
    ),
    "the same field twice": (
        b'{"w":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}}',
        None,
        "'dtype' is given twice",
    ),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "w": entry()}, None, "strings to strings"),
    "no fields": ({"w": {}}, None, "'w': expected exactly dtype, shape and data_offsets"),
    "a string": ({"w": "F32"}, None, "'w': expected exactly"),
    "more fields": ({"w": entry() | {"more": 1}}, None, "'w': expected exactly"),
    "half a character": (b'{"\\ud800":{}}', None, "half of a surrogate pair"),
    "unknown dtype": ({"w": entry("F4")}, None, "found 'F4'"),
    "a dtype that is a list": ({"w": entry(["F32"])}, None, r"found \['F32'\]"),
    "negative size": ({"w": entry(shape=(-2,))}, None, r"non-negative integers, found \[-2\]"),
    "a fraction": ({"w": entry(shape=(2.0,))}, None, r"found \[2\.0\]"),
    "true": ({"w": entry(shape=(True, 2))}, None, r"found \[True, 2\]"),
    "65 dimensions": ({"w": entry(shape=[1] * 64 + [2])}, None, "non-negative integers"),
    "absurd shape": ({"w": entry(shape=(2**40, 2**40))}, None, "larger than any memory"),
    "absurd and empty": (
        {"w": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))},
        None,
        "larger than any memory",
    ),
    "negative offset": ({"w": entry(offsets=(-8, 0))}, None, r"found \[-8, 0\]"),
    "backward offsets": ({"w": entry(offsets=(8, 0))}, None, r"found \[8, 0\]"),
    "three offsets": ({"w": entry(offsets=(0, 4, 8))}, None, r"found \[0, 4, 8\]"),
    "offsets of another size": ({"w": entry(offsets=(0, 4))}, None, "takes 8 bytes, found .* of 4"),
    "overlap": (
        {"v": entry(), "w": entry(offsets=(4, 12))},
        None,
        "'w': starts at byte 4, inside 'v' that ends at 8",
    ),
    "gap": ({"w": entry(offsets=(4, 12))}, None, "start at byte 0, found 4: a gap"),
    "beyond the end": ({"v": entry(), "w": entry(shape=(4,), offsets=(8, 24))}, None, "truncated"),
    "bytes that nobody owns": ({"w": entry(shape=(1,), offsets=(0, 4))}, None, "expected 4 bytes"),
    "empty": ({}, None, "expected 0 bytes of tensors after the header, found 8"),
}


@pytest.mark.parametrize(("header", "length", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers(tmp_path, header, length, message):
    file = tmp_path / "model.safetensors"
    if header == b"":
        file.write_bytes(b"1234")
    else:
        raw_file(file, header, bytes(8), length=length)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsCheckpoint(tmp_path)
    assert str(file) in str(caught.value)
    assert caught.value.hint


def test_a_header_of_a_hundred_megabytes_and_more(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 100_000_001))
        stream.truncate(200_000_000)
    with pytest.raises(CheckpointError, match="at most 100000000 bytes"):
        SafetensorsCheckpoint(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
sizes = st.integers(-3, 5) | st.sampled_from([2**31, 2**63, 2**64, 10**30])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "f32", ""]) | json_values,
        "shape": st.lists(sizes, max_size=3) | json_values,
        "data_offsets": st.lists(sizes, min_size=1, max_size=3) | json_values,
    }
)
headers = st.dictionaries(st.text(max_size=4), entries | json_values, max_size=4)


def opens_or_refuses(file):
    """Either every tensor can be read and is what the header says, or one clear error."""
    try:
        checkpoint = SafetensorsCheckpoint(file)
    except CheckpointError:
        return
    for name, info in checkpoint.tensors.items():
        value = checkpoint.read(name)
        assert (tuple(value.shape), value.dtype) == (info.shape, info.dtype)


@given(header=headers, data=st.binary(max_size=40))
def test_any_header_is_read_or_refused(tmp_path_factory, header, data):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    opens_or_refuses(raw_file(file, json.dumps(header).encode("utf-8"), data))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    file.write_bytes(data)
    opens_or_refuses(file)


@given(data=st.data())
def test_a_good_file_with_bytes_changed_or_cut(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(3, dtype=torch.int8)}, file)
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    opens_or_refuses(file)


def test_a_truncated_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="'w': ends at byte 400, but the file has only 399"):
        SafetensorsCheckpoint(file)


def test_a_file_that_changes_while_in_use(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, file)
    checkpoint = SafetensorsCheckpoint(file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"changed while it was in use \(tensor 'w'\)"):
        checkpoint.read("w")
    file.unlink()
    with pytest.raises(CheckpointError, match="'w' cannot be read: No such file"):
        checkpoint.read("w")


def test_a_file_cut_short_between_the_look_and_the_read(tmp_path, monkeypatch):
    from taskloom.store import safetensors_dir

    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, file)
    checkpoint = SafetensorsCheckpoint(file)
    mark = list(read_header(file).mark)
    file.write_bytes(file.read_bytes()[:-4])
    monkeypatch.setattr(safetensors_dir, "file_mark", lambda path: mark)
    with pytest.raises(CheckpointError, match="'w': expected 400 bytes, found 396"):
        checkpoint.read("w")


# directories


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        SafetensorsCheckpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("present", "way_out"),
    [
        (None, "Check the path"),
        ("adapter_config.json", "This is an adapter"),
        ("pytorch_model.bin", r"It holds the pickle pytorch_model\.bin; allow pickles"),
        ("other.safetensors", r"Name the file itself, such as .*other\.safetensors"),
    ],
)
def test_a_directory_without_weights_names_the_way_out(tmp_path, present, way_out):
    if present:
        (tmp_path / present).write_text("")
    with pytest.raises(CheckpointError, match=f"found neither. {way_out}"):
        SafetensorsCheckpoint(tmp_path)


def test_single_file_and_index_together_are_ambiguous(tmp_path):
    shards(tmp_path, {"x.safetensors": {"a": torch.ones(1)}})
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="Remove the one that is stale"):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize("where", ["../x.safetensors", "/etc/passwd", "a/../../x", "", "C:\\x", "a\0b"])
def test_an_index_that_names_files_outside(tmp_path, where):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    folder = shards(tmp_path / "m", {"y.safetensors": {"a": torch.ones(1)}}, {"a": where})
    with pytest.raises(CheckpointError, match=r"index\.json: expected a file of .* leaves"):
        SafetensorsCheckpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "shard.safetensors"])
def test_a_link_that_leaves_the_directory(tmp_path, name):
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / name).symlink_to("../outside.safetensors")
    if name != "model.safetensors":
        shards(folder, {}, {"a": name})
    with pytest.raises(CheckpointError, match=r"a link to .*outside"):
        SafetensorsCheckpoint(folder)


def test_a_linked_folder_and_a_link_in_a_circle(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "sub").symlink_to(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    shards(folder, {}, {"a": "sub/x.safetensors"})
    with pytest.raises(CheckpointError, match="a link to"):
        SafetensorsCheckpoint(folder)
    (folder / "loop").symlink_to("loop")
    shards(folder, {}, {"a": "loop"})
    with pytest.raises(CheckpointError):
        SafetensorsCheckpoint(folder)


@pytest.mark.parametrize("blobs", ["models--o--n/blobs", "blobs"])
def test_the_hubs_cache_keeps_files_as_links(tmp_path, blobs):
    folder = tmp_path / "models--o--n" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (tmp_path / blobs).mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / blobs / "0123")
    (folder / "model.safetensors").symlink_to(tmp_path / blobs / "0123")
    assert SafetensorsCheckpoint(folder).read("a").tolist() == [1]


def test_a_missing_shard(tmp_path):
    folder = shards(tmp_path / "m", {"x.safetensors": {"a": torch.ones(1)}}, {"a": "gone.safetensors"})
    with pytest.raises(CheckpointError, match=r"shard 'gone\.safetensors' \(tensor 'a' and others\)"):
        SafetensorsCheckpoint(folder)


def test_a_tensor_that_is_listed_but_absent(tmp_path):
    mapping = {"a": "x.safetensors", "b": "x.safetensors"}
    folder = shards(tmp_path / "m", {"x.safetensors": {"a": torch.ones(1)}}, mapping)
    with pytest.raises(CheckpointError, match=r"tensor 'b': expected in 'x\.safetensors', found no"):
        SafetensorsCheckpoint(folder)


@pytest.mark.parametrize("second", [None, "y.safetensors"])
def test_a_tensor_that_is_stored_but_not_listed_there(tmp_path, second):
    parts = {
        "x.safetensors": {"a": torch.ones(1), "b": torch.ones(1)},
        "y.safetensors": {"b": torch.ones(1)},
    }
    mapping = {"a": "x.safetensors"} | ({"b": second} if second else {})
    folder = shards(tmp_path / "m", parts, mapping)
    with pytest.raises(CheckpointError, match=r"tensor 'b' is stored in 'x\.safetensors', but"):
        SafetensorsCheckpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON in UTF-8"),
        ("\xff", "expected JSON in UTF-8"),
        ("[]", "expected a weight_map"),
        ("{}", "expected a weight_map"),
        ('{"weight_map": {}}', "expected a weight_map"),
        ('{"weight_map": {"a": 3}}', "'a': expected a file name, found 3"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' is given twice"),
    ],
)
def test_a_malformed_index(tmp_path, text, message):
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message):
        SafetensorsCheckpoint(tmp_path)
