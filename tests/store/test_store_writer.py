"""What is written is what transformers and safetensors read."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from taskloom.errors import CheckpointError, OutputError
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.header import DTYPES
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.template import copy_template
from taskloom.store.writer import plan_shards, write_model, write_safetensors


def infos(tensors):
    return {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}


def write(path, tensors, metadata=None):
    write_safetensors(path, infos(tensors), tensors.items(), metadata or {})


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensor(draw):
    dtype = getattr(torch, draw(st.sampled_from(list(DTYPES.values()))))
    shape = draw(shapes)
    count = torch.Size(shape).numel() * dtype.itemsize
    if dtype == torch.bool:
        bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return torch.tensor(bits, dtype=torch.bool).reshape(shape)
    raw = draw(st.binary(min_size=count, max_size=count))
    return torch.tensor(list(raw), dtype=torch.uint8).view(dtype).reshape(shape)


state_dicts = st.dictionaries(
    st.text(max_size=6).filter(lambda name: name != "__metadata__"), tensor(), max_size=5
)


@given(tensors=state_dicts, metadata=st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
def test_round_trip_of_anything(tmp_path_factory, tensors, metadata):
    file = tmp_path_factory.getbasetemp() / "round.safetensors"
    write(file, tensors, metadata)
    back = SafetensorsCheckpoint(file)
    assert set(back.tensors) == set(tensors)
    assert back.metadata == metadata
    for name, value in tensors.items():
        found = back.read(name)
        assert (found.shape, found.dtype) == (value.shape, value.dtype)
        bits = [each.reshape(-1).view(torch.uint8) for each in (found, value)]
        assert torch.equal(*bits)
    assert back.digest() == MemoryCheckpoint(tensors).digest()


def test_the_safetensors_library_agrees(tmp_path):
    tensors = {
        "odd": torch.ones(3, dtype=torch.int8),
        "half": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    write(tmp_path / "f", tensors, {"format": "pt"})
    loaded = load_file(tmp_path / "f")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    with safe_open(tmp_path / "f", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_to_its_element(tmp_path):
    tensors = {
        "a": torch.ones(3, dtype=torch.int8),
        "b": torch.ones(3, dtype=torch.float64),
        "c": torch.ones(1, dtype=torch.bfloat16),
        "d": torch.ones(1),
    }
    write(tmp_path / "f", tensors)
    raw = (tmp_path / "f").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["b", "d", "c", "a"]
    for name, value in tensors.items():
        assert header[name]["data_offsets"][0] % value.dtype.itemsize == 0


def test_equal_tensors_give_equal_bytes_in_any_order_of_arrival(tmp_path):
    tensors = {"a": torch.randn(3), "b": torch.randn(4)}
    write(tmp_path / "1", tensors)
    write_safetensors(tmp_path / "2", infos(tensors), reversed(list(tensors.items())), {})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_odd_strides_and_gradients(tmp_path):
    value = torch.randn(3, 4, requires_grad=True)
    write(tmp_path / "f", {"t": value.T, "e": value[:1].expand(5, 4)})
    back = load_file(tmp_path / "f")
    assert torch.equal(back["t"], value.T)
    assert torch.equal(back["e"], value[:1].expand(5, 4))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "2 tensors were announced and never written, the first of them 'a'"),
        ([("a", torch.ones(2))], "1 tensors were announced .* 'b'"),
        ([("c", torch.ones(2))], "'c' was not announced"),
        ([("a", torch.ones(2))] * 2, "'a' is written twice"),
        ([("a", torch.ones(3))], r"expected torch\.float32 \[2\], found torch\.float32 \[3\]"),
        ([("a", torch.ones(2).half())], r"found torch\.float16 \[2\]"),
    ],
)
def test_what_arrives_must_be_what_was_announced(tmp_path, tensors, message):
    announced = infos({"a": torch.ones(2), "b": torch.ones(1)})
    with pytest.raises(OutputError, match=message):
        write_safetensors(tmp_path / "f", announced, tensors, {})
    with pytest.raises(OutputError, match=message):
        write_model(tmp_path / "m", infos=announced, tensors=tensors, template=None)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "announced",
    [{"__metadata__": TensorInfo((), torch.int8)}, {"w": TensorInfo((), torch.complex128)}],
)
def test_what_safetensors_cannot_store(tmp_path, announced):
    with pytest.raises(OutputError, match="cannot be stored in safetensors"):
        write_safetensors(tmp_path / "f", announced, [], {})
    assert names(tmp_path) == []


# shards


@given(
    sizes=st.lists(st.integers(0, 50), max_size=12),
    limit=st.integers(1, 120),
)
def test_shards_hold_everything_once_and_keep_the_limit(sizes, limit):
    announced = {f"w{i}": TensorInfo((size,), torch.int8) for i, size in enumerate(sizes)}
    plan = plan_shards(announced, limit)
    assert [name for group in plan.values() for name in group] == list(announced)
    for group in plan.values():
        total = sum(announced[name].nbytes for name in group)
        assert total <= limit or sum(announced[name].nbytes > 0 for name in group) == 1


def test_shard_size_must_be_positive():
    with pytest.raises(OutputError, match="max_shard_bytes 0"):
        plan_shards({}, 0)


def test_sharded_output(tmp_path):
    tensors = {f"w{i}": torch.full((10,), float(i)) for i in range(5)}
    shuffled = [(name, tensors[name]) for name in ("w3", "w0", "w4", "w1", "w2")]
    write_model(
        tmp_path / "m", infos=infos(tensors), tensors=shuffled, template=None, max_shard_bytes=80
    )
    assert names(tmp_path / "m") == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["w4"] == "model-00003-of-00003.safetensors"
    assert SafetensorsCheckpoint(tmp_path / "m").digest() == MemoryCheckpoint(tensors).digest()


def test_replacing_shards_leaves_none_behind(tmp_path):
    tensors = {f"w{i}": torch.ones(10) for i in range(5)}
    arguments = {"infos": infos(tensors), "template": None, "overwrite": True}
    write_model(tmp_path / "m", tensors=tensors.items(), max_shard_bytes=80, **arguments)
    write_model(tmp_path / "m", tensors=tensors.items(), **arguments)
    assert names(tmp_path / "m") == ["model.safetensors"]
    with pytest.raises(OutputError, match="exists"):
        write_model(tmp_path / "m", infos=infos(tensors), tensors=tensors.items(), template=None)


def test_extra_files_are_part_of_the_whole(tmp_path):
    def extra(folder):
        (folder / "taskloom.json").write_text("{}")
        assert (folder / "model.safetensors").exists()

    tensors = {"w": torch.ones(1)}
    arguments = {"infos": infos(tensors), "tensors": tensors.items(), "template": None}
    assert write_model(tmp_path / "m", extra=extra, **arguments) == tmp_path / "m"
    assert names(tmp_path / "m") == ["model.safetensors", "taskloom.json"]

    def failing(folder):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_model(tmp_path / "n", extra=failing, **arguments)
    assert not (tmp_path / "n").exists()


# the template

COPIED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "taskloom_encoder.json",
    "1_Pooling/config.json",
]
LEFT = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "onnx/model.onnx",
    "2_Dense/model.safetensors",
    "heads/trec6.safetensors",
    "heads/labels.json",
    "adapter_config.json",
    "taskloom.json",
    "trainer_state.json",
    "training_args.json",
    "optimizer.pt",
    "README.md",
    ".hidden.json",
]


@pytest.fixture
def template(tmp_path):
    for name in COPIED + LEFT:
        path = tmp_path / "template" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path / "template"


def test_what_is_copied(tmp_path, template):
    (tmp_path / "out").mkdir()
    assert copy_template(template, tmp_path / "out") == sorted(COPIED)
    assert names(tmp_path / "out") == sorted(COPIED)


def test_a_template_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="expected a model's directory"):
        write_model(tmp_path / "m", infos={}, tensors=[], template=tmp_path / "nothing")
    assert names(tmp_path) == []


def test_a_template_that_links_to_the_outside(tmp_path, template):
    (tmp_path / "secret.json").write_text("secret")
    (template / "config.json").unlink()
    (template / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="a link to"):
        write_model(tmp_path / "m", infos={}, tensors=[], template=template)


@pytest.mark.parametrize(
    ("before", "dtypes", "after"),
    [
        ({"dtype": "bfloat16"}, [torch.float32, torch.int64], {"dtype": "float32"}),
        ({"torch_dtype": "float16", "x": 1}, [torch.bfloat16], {"torch_dtype": "bfloat16", "x": 1}),
        ({"dtype": "float32"}, [torch.float32], {"dtype": "float32"}),
        ({"x": 1}, [torch.float32], {"x": 1}),
        ({"dtype": "float16"}, [torch.float32, torch.float16], {"dtype": "float16"}),
    ],
)
def test_the_configuration_names_the_dtype_of_the_weights(tmp_path, template, before, dtypes, after):
    (template / "config.json").write_text(json.dumps(before))
    (tmp_path / "out").mkdir()
    announced = {str(i): TensorInfo((1,), dtype) for i, dtype in enumerate(dtypes)}
    copy_template(template, tmp_path / "out", announced)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == after


def test_a_broken_configuration(tmp_path, template):
    (template / "config.json").write_text("{")
    announced = {"w": TensorInfo((), torch.float32)}
    with pytest.raises(CheckpointError, match=r"config\.json of the template: expected JSON"):
        write_model(
            tmp_path / "m", infos=announced, tensors=[("w", torch.tensor(1.0))], template=template
        )


@pytest.mark.parametrize("shard_bytes", [10**9, 9_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_it(tmp_path, shard_bytes, dtype):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        max_position_embeddings=20,
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path / "base")
    base = SafetensorsCheckpoint(tmp_path / "base")
    changed = {name: (base.read(name) * 2).to(dtype) for name in base.tensors}
    write_model(
        tmp_path / "out",
        infos=infos(changed),
        tensors=changed.items(),
        template=tmp_path / "base",
        max_shard_bytes=shard_bytes,
    )
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out").state_dict()
    for name, value in changed.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], value)
