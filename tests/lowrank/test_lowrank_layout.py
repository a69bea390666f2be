"""Where peft keeps what is not low-rank, and how an adapter is written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from taskloom.errors import CheckpointError, OutputError
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.adapter_layout import Layout, lay_out, lone, under
from taskloom.store.adapter_writer import write_adapter
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.memory import MemoryCheckpoint

TENSORS = (
    "emb.table.weight",
    "emb.position",
    "layer.0.fc.weight",
    "layer.0.fc.bias",
    "layer.0.norm.weight",
    "layer.0.norm.bias",
    "layer.1.fc.weight",
    "layer.1.fc.bias",
    "scale",
)
NONE = Layout((), (), ())


def test_parameters_without_a_module_of_their_own_are_lone():
    assert lone(TENSORS, TENSORS) == ("emb.position", "scale")


def test_under_counts_whole_parts():
    assert under("layer.1.fc.weight", {"layer.1"})
    assert not under("layer.1.fc.weight", {"layer.1.fc.weight", "lay", "fc"})


def test_a_module_is_saved_with_all_it_holds_and_a_bias_alone():
    found = lay_out(["layer.0.norm.weight", "layer.1.fc.bias"], adapted=["layer.0.fc"], tensors=TENSORS)
    assert found == Layout(
        ("layer.0.norm",), ("layer.0.norm.weight", "layer.0.norm.bias"), ("layer.1.fc.bias",)
    )
    assert lay_out([], adapted=["layer.0.fc"], tensors=TENSORS) == NONE


def test_containers_swallow_what_they_hold():
    found = lay_out(
        ["emb.position", "emb.table.weight"],
        adapted=["layer.0.fc"],
        tensors=TENSORS,
        containers=["emb"],
    )
    assert found.modules == ("emb",)
    assert found.tensors == ("emb.table.weight", "emb.position")


def test_names_that_end_alike_are_saved_too():
    tensors = [
        "fc.weight",
        "norm.weight",
        "block.norm.weight",
        "block.postnorm.weight",
        "block.normal.weight",
    ]
    found = lay_out(["norm.weight"], adapted=["fc"], tensors=tensors)
    assert found.modules == ("block.norm", "block.postnorm", "norm")
    assert "block.normal.weight" not in found.tensors


@pytest.mark.parametrize("adapted", ["block.fc", "block.fc.inner", "fc"])
def test_an_adapted_module_that_ends_alike_is_refused(adapted):
    tensors = ["fc.scale", "fc.weight", "block.fc.weight", "block.fc.inner.weight"]
    with pytest.raises(CheckpointError, match="mine: peft finds modules to save by the end"):
        lay_out(["fc.scale"], adapted=[adapted], tensors=tensors, label="mine")


def test_a_saved_module_inside_another_is_refused():
    tensors = ["embeddings.cls", "embeddings.patch_embeddings.weight", "fc.weight"]
    with pytest.raises(CheckpointError, match="would confuse embeddings"):
        lay_out(["embeddings.cls"], adapted=["fc"], tensors=tensors, containers=["embeddings"])


# --- the writer ----------------------------------------------------------------------------------

INFOS = {
    "a.fc.weight": TensorInfo((5, 4), torch.float32),
    "a.fc.bias": TensorInfo((5,), torch.float32),
    "b.fc.weight": TensorInfo((4, 5), torch.float32),
    "b.fc.bias": TensorInfo((4,), torch.float32),
    "table.weight": TensorInfo((7, 4), torch.float32),
}


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def write(folder, **options):
    pairs = {"a.fc.weight": (5, 2, 4), "b.fc.weight": (4, 3, 5), "table.weight": (7, 2, 4)}
    products = {}
    with write_adapter(folder, INFOS, **options) as writer:
        for name, (rows, rank, columns) in pairs.items():
            left, right = normal(rows, rank), normal(rank, columns)
            writer.low_rank(name, left, right, embedding=name == "table.weight")
            products[name] = left @ right
        assert writer.adapted == ("a.fc", "b.fc", "table")
        writer.whole("a.fc.bias", torch.ones(5))
        writer.finish(Layout((), (), ("a.fc.bias",)))
    return products


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_written_is_read_back(tmp_path, transposed):
    products = write(tmp_path / "out", transposed=transposed)
    base = MemoryCheckpoint({n: torch.zeros(i.shape) for n, i in INFOS.items()})
    opened = AdapterCheckpoint(tmp_path / "out", base)
    for name, product in products.items():
        torch.testing.assert_close(opened.read(name), product)
    assert torch.equal(opened.read("a.fc.bias"), torch.ones(5))
    assert opened.whole == ("a.fc.bias",)
    assert opened.low_rank == ("a.fc.weight", "b.fc.weight", "table.weight")
    assert opened.embeddings == {"table.weight"}
    assert opened.wrapping == ("", "")


def test_configuration_and_keys(tmp_path):
    write(tmp_path / "out", base_name="org/base")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (2, 2, "lora_only")
    assert config["rank_pattern"] == config["alpha_pattern"] == {r"^b\.fc": 3}
    assert config["target_modules"] == ["a.fc", "b.fc", "table"]
    assert config["base_model_name_or_path"] == "org/base"
    assert set(load_file(tmp_path / "out" / "adapter_model.safetensors")) == {
        f"base_model.model.{key}"
        for key in (
            "a.fc.lora_A.weight",
            "a.fc.lora_B.weight",
            "a.fc.base_layer.bias",
            "b.fc.lora_A.weight",
            "b.fc.lora_B.weight",
            "table.lora_embedding_A",
            "table.lora_embedding_B",
        )
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_another_spelling_than_the_bases(tmp_path):
    write(tmp_path / "out", wrapping=("model.", ""))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.a.fc", "model.b.fc", "model.table"]
    base = MemoryCheckpoint({n: torch.zeros(i.shape) for n, i in INFOS.items()})
    assert AdapterCheckpoint(tmp_path / "out", base).wrapping == ("model.", "")


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("a.fc.weight", (5, 2), (3, 4)),
        ("a.fc.weight", (4, 2), (2, 5)),
        ("a.fc.weight", (5, 0), (0, 4)),
        ("a.fc.bias", (5, 1), (1, 1)),
    ],
)
def test_factors_that_do_not_fit_are_refused(tmp_path, name, left, right):
    with (
        pytest.raises(OutputError, match="do not make its change"),
        write_adapter(tmp_path / "out", INFOS) as writer,
    ):
        writer.low_rank(name, torch.ones(left), torch.ones(right))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_given_twice_is_refused(tmp_path):
    with write_adapter(tmp_path / "out", INFOS) as writer:
        writer.low_rank("a.fc.weight", torch.ones(5, 1), torch.ones(1, 4))
        writer.whole("a.fc.bias", torch.ones(5))
        with pytest.raises(OutputError, match="stored twice"):
            writer.whole("a.fc.bias", torch.ones(5))
        writer.finish(Layout((), (), ("a.fc.bias",)))
