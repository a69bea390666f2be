"""Checkpoints in object stores: ranged reads, digests, errors."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save, save_file

from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, OutputError, SourceUnreachable
from taskloom.merging.api import merge, merge_files
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import open_pool
from taskloom.store.remote import RemoteCheckpoint, fetch_small, is_url
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

WEIGHTS = {
    "table": torch.arange(600, dtype=torch.float32).reshape(100, 6),
    "half": torch.linspace(-1, 1, 7).to(torch.bfloat16),
    "scalar": torch.tensor(3.5),
    "steps": torch.tensor([1, 2, 3]),
    "none": torch.zeros(0, 4),
}


class Watched(MemoryFileSystem):
    """A store that remembers what was asked of it and fails when told to."""

    protocol = "watched"
    ranges: list = []  # noqa: RUF012
    failure = None
    short = False
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("watched://"))

    def cat_file(self, path, start=None, end=None, **options):
        if self.failure is not None:
            raise self.failure
        type(self).ranges.append((path, start, end))
        data = super().cat_file(path, start, end, **options)
        return data[:-1] if self.short else data


@pytest.fixture(autouse=True)
def stores(cache, monkeypatch):
    fsspec.register_implementation("watched", Watched, clobber=True)
    monkeypatch.setattr(Watched, "ranges", [])
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])


def put(url, data):
    with fsspec.open(url, "wb") as stream:
        stream.write(data)


def model(url, tensors=WEIGHTS, **files):
    put(f"{url}/model.safetensors", save(tensors))
    put(f"{url}/config.json", b'{"model_type": "bert"}')
    put(f"{url}/tokenizer.json", b"{}")
    return url


def shards(url):
    names = {"model-1.safetensors": ["table", "scalar"], "deep/model-2.safetensors": ["half", "steps"]}
    for file, held in names.items():
        put(f"{url}/{file}", save({name: WEIGHTS[name] for name in held}))
    weight_map = {name: file for file, held in names.items() for name in held}
    put(f"{url}/model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())
    return url


@pytest.mark.parametrize("url", ["memory://bucket/m", "watched://bucket/deep/m/"])
def test_it_reads_what_a_directory_holds(url):
    model(url.rstrip("/"))
    checkpoint = open_checkpoint(url)
    assert isinstance(checkpoint, RemoteCheckpoint)
    assert checkpoint.label == url.rstrip("/")
    assert set(checkpoint.tensors) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        found = checkpoint.read(name)
        assert found.dtype == value.dtype
        assert torch.equal(found, value)
    assert checkpoint.digest() == MemoryCheckpoint(WEIGHTS).digest()
    assert torch.equal(checkpoint.read("table", slice(-3, -1)), WEIGHTS["table"][-3:-1])
    assert checkpoint.read("table", slice(5, 2)).shape == (0, 6)
    assert torch.equal(checkpoint.read_range("table", 5, 14), torch.arange(5.0, 14.0))
    with pytest.raises(ValueError, match="step 1"):
        checkpoint.read("table", slice(0, 9, 3))
    with pytest.raises(CheckpointError, match=r"no tensor 'tabel'\. The nearest name is 'table'"):
        checkpoint.read("tabel")


def test_a_file_address_is_a_path(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    for url in (f"file://{tmp_path}", f"local://{tmp_path}/model.safetensors"):
        checkpoint = open_checkpoint(url)
        assert isinstance(checkpoint, SafetensorsCheckpoint)
        assert torch.equal(checkpoint.read("table"), WEIGHTS["table"])
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(f"file://{tmp_path}/other")


def test_only_the_bytes_asked_for_are_transferred():
    big = {"a": torch.zeros(1000, 1000), "b": torch.ones(1000, 1000)}
    checkpoint = open_checkpoint(model("watched://bucket/big", big))
    opened = sum(stop - start for _, start, stop in Watched.ranges)
    assert opened < 1000, "opening reads the header alone"
    Watched.ranges.clear()
    assert checkpoint.read("b", slice(10, 12)).sum() == 2000
    assert [stop - start for _, start, stop in Watched.ranges] == [8000]


def test_shards():
    checkpoint = open_checkpoint(shards("memory://bucket/big"))
    for name in ("table", "half", "scalar", "steps"):
        assert torch.equal(checkpoint.read(name), WEIGHTS[name])
    one = {name: value for name, value in WEIGHTS.items() if name != "none"}
    assert checkpoint.digest() == MemoryCheckpoint(one).digest()


def test_one_object():
    model("memory://bucket/m")
    checkpoint = open_checkpoint("memory://bucket/m/model.safetensors")
    assert torch.equal(checkpoint.read("half"), WEIGHTS["half"])
    assert (checkpoint.path / "config.json").is_file()


def test_threads_and_pickles():
    checkpoint = pickle.loads(pickle.dumps(open_checkpoint(model("memory://bucket/m"))))
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: checkpoint.read("table", slice(i, i + 1)), range(100)))
    assert torch.equal(torch.cat(rows), WEIGHTS["table"])


def test_merging_from_a_store_gives_what_merging_from_a_disk_gives(tmp_path):
    floats = {name: WEIGHTS[name] for name in ("table", "half")}
    experts = [{name: value + shift for name, value in floats.items()} for shift in (1, 2)]
    urls = [model(f"memory://b/{i}", each) for i, each in enumerate([floats, *experts])]
    merged = merge(urls[0], urls[1:], "task_arithmetic", scale=0.5)
    wanted = merge(floats, experts, "task_arithmetic", scale=0.5)
    assert all(torch.equal(merged[name], wanted[name]) for name in wanted)
    report = merge_files(urls[0], urls[1:], "task_arithmetic", tmp_path / "out", scale=0.5)
    assert report.experts == ("1", "2")
    found = SafetensorsCheckpoint(tmp_path / "out")
    assert all(torch.equal(found.read(name), wanted[name]) for name in wanted)
    copied = {each.name for each in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json"} <= copied


def test_configuration_and_tokenizer_are_fetched_into_the_cache(cache):
    url = model("watched://bucket/m")
    put(f"{url}/pytorch_model.bin", b"a pickle")
    put(f"{url}/README.md", b"a card")
    checkpoint = open_checkpoint(url)
    folder = checkpoint.path
    assert folder.is_relative_to(cache)
    assert {each.name for each in folder.iterdir()} == {"config.json", "tokenizer.json"}
    Watched.ranges.clear()
    assert checkpoint.path == folder
    assert Watched.ranges == []
    put(f"{url}/config.json", b'{"model_type": "llama"}')
    assert (checkpoint.path / "config.json").read_text() == '{"model_type": "llama"}'


def test_an_adapter_in_a_store():
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["proj"]}
    prefix = "base_model.model.proj.lora_"
    factors = {f"{prefix}A.weight": torch.ones(1, 2), f"{prefix}B.weight": torch.ones(3, 1)}
    put("memory://b/lora/adapter_config.json", json.dumps(config).encode())
    put("memory://b/lora/adapter_model.safetensors", save(factors))
    pool = open_pool({"proj.weight": torch.zeros(3, 2)}, ["memory://b/lora"])
    assert pool.names == ("lora",)
    assert pool.experts[0].checkpoint.read("proj.weight").tolist() == [[2, 2]] * 3
    with pytest.raises(CheckpointError, match="Give the base"):
        open_checkpoint("memory://b/lora")


# ---- faults


def test_nothing_there():
    with pytest.raises(CheckpointError, match=r"memory://b/no: expected model\.safetensors or"):
        open_checkpoint("memory://b/no")
    with pytest.raises(CheckpointError, match="there is no such object"):
        open_checkpoint("memory://b/no/x.safetensors")


def test_unknown_protocols():
    with pytest.raises(CheckpointError, match=r"unknown protocol 'memry'\. Did you mean memory://"):
        open_checkpoint("memry://b/m")
    with pytest.raises(CheckpointError, match="an address such as s3://bucket/directory"):
        open_checkpoint("qqqqqqqq://b/m")


def test_a_protocol_whose_package_is_not_installed():
    if find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(SourceUnreachable, match=r"s3://b/m.*: s3:// needs a package.*s3fs"):
        open_checkpoint("s3://b/m")


def test_a_revision_makes_no_sense():
    with pytest.raises(CheckpointError, match="revision 'v1' was given, but an address has none"):
        open_checkpoint("memory://b/m", revision="v1")


def test_a_truncated_object():
    url = model("memory://b/m")
    put(f"{url}/model.safetensors", save(WEIGHTS)[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(url)


@pytest.mark.parametrize("where", ["../x.safetensors", "/x.safetensors", "a/../../x", "C:\\x"])
def test_an_index_that_names_objects_outside(where):
    put("watched://b/secret", b"secret")
    put("watched://b/m/model.safetensors.index.json", json.dumps({"weight_map": {"w": where}}).encode())
    with pytest.raises(CheckpointError, match="that leaves it"):
        open_checkpoint("watched://b/m")
    assert {path for path, _, _ in Watched.ranges} == {"/b/m/model.safetensors.index.json"}


def test_index_faults():
    url = shards("memory://b/m")
    fsspec.filesystem("memory").rm("/b/m/deep/model-2.safetensors")
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors: there is no such object"):
        open_checkpoint(url)
    put(f"{url}/deep/model-2.safetensors", save({"other": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="found no such tensor there"):
        open_checkpoint(url)
    put(f"{url}/model.safetensors", save(WEIGHTS))
    with pytest.raises(CheckpointError, match="holds both"):
        open_checkpoint(url)


def test_an_object_that_changes_while_in_use():
    url = model("memory://b/m")
    checkpoint = open_checkpoint(url)
    model(url, WEIGHTS | {"table": torch.zeros(100, 6)})
    with pytest.raises(CheckpointError, match="changed while it was in use \\(tensor 'table'\\)"):
        checkpoint.read("table")
    fsspec.filesystem("memory").rm("/b/m", recursive=True)
    with pytest.raises(CheckpointError, match="no such object"):
        checkpoint.read("table")


def test_a_store_that_gives_less_than_was_asked_for(monkeypatch):
    checkpoint = open_checkpoint(model("watched://b/m"))
    monkeypatch.setattr(Watched, "short", True)
    with pytest.raises(CheckpointError, match="tensor 'table': asked for 2400 bytes, got 2399"):
        checkpoint.read("table")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (PermissionError("Access Denied"), "refuses access: Access Denied.*Log in"),
        (ConnectionError("reset by peer\nmore"), r"cannot be read: reset by peer\. Check"),
        (RuntimeError(), "cannot be read: RuntimeError"),
    ],
)
def test_a_store_that_fails(monkeypatch, failure, message):
    checkpoint = open_checkpoint(model("watched://b/m"))
    monkeypatch.setattr(Watched, "failure", failure)
    with pytest.raises(SourceUnreachable, match=message) as caught:
        checkpoint.read("table")
    assert "watched://b/m/model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_small_file_that_is_not_small(monkeypatch):
    checkpoint = open_checkpoint(model("memory://b/m"))
    monkeypatch.setitem(fetch_small.__kwdefaults__, "limit", 10)
    with pytest.raises(CheckpointError, match="expected a small file, found 22 bytes"):
        _ = checkpoint.path


def test_a_password_is_not_told():
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("memory://me:secret@bucket/m")
    assert "secret" not in str(caught.value)


def test_what_is_an_address():
    assert is_url("s3://b/m")
    assert not any(map(is_url, ["o/m", "C:\\m", "/a/b", "o/m@v1", "://x", "s3:", "s3://", "./a"]))


def test_a_path_names_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [{"w": torch.ones(2)}, {"w": torch.ones(2)}]
    with pytest.raises(OutputError, match="outputs are written to a disk, not to an object store"):
        merge_files(None, models, "average", Path("memory://b/out"))  # a path has lost a slash
    model("memory://b/m", {"w": torch.ones(2)})
    command = ["merge", "--expert", "a=memory://b/m", "--expert", "c=memory://b/m"]
    assert invoke([*command, "--method", "average", "-o", "out"]) == 0
    assert SafetensorsCheckpoint(tmp_path / "out").read("w").tolist() == [1, 1]
    assert list(tmp_path.glob("*:*")) == []


def test_a_merge_of_weights_in_memory_goes_to_a_store():
    models = [{"w": torch.ones(2)}, {"w": torch.zeros(2)}]
    merge_files(None, models, "average", "memory://b/out")
    assert open_checkpoint("memory://b/out").read("w").tolist() == [0.5, 0.5]
