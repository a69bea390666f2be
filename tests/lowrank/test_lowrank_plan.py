"""Names and classes tell linear layers and embeddings from the rest."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from taskloom.errors import PlanError
from taskloom.merging.extract_plan import find_kinds, matching, modules_of
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


def kind_of(name, shape=(4, 3), **options):
    base = MemoryCheckpoint({name: torch.zeros(shape)})
    return find_kinds(None, base, **options).of[name]


@pytest.mark.parametrize(
    "module",
    [
        "bert.embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "model.embed_tokens",
        "transformer.wte",
        "transformer.wpe",
        "shared",
        "model.decoder.embed_positions",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "tok_embedding",
    ],
)
def test_called_like_an_embedding(module):
    assert kind_of(f"{module}.weight") == "embedding"


@pytest.mark.parametrize(
    "module", ["lm_head", "classifier", "q_proj", "vision.patch_embedding", "embeddings_project", "fc"]
)
def test_called_otherwise(module):
    assert kind_of(f"{module}.weight") == "linear"
    assert kind_of(f"{module}.weight", embeddings=[module]) == "embedding"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("norm.weight", (4,)),
        ("conv.weight", (4, 3, 2)),
        ("fc.bias", (4,)),
        ("attn.in_proj_weight", (4, 3)),
        ("scale", ()),
    ],
)
def test_what_is_no_matrix_of_a_module_is_the_rest(name, shape):
    assert kind_of(name, shape) == "rest"


def test_integer_matrices_are_the_rest():
    base = MemoryCheckpoint({"fc.weight": torch.zeros(3, 3, dtype=torch.int64)})
    assert find_kinds(None, base).of["fc.weight"] == "rest"


def test_the_models_type_says_which_weights_are_transposed(tmp_path):
    names = ["h.0.attn.c_attn", "h.0.mlp.c_fc", "wte", "score"]
    save_file({f"{n}.weight": torch.zeros(4, 3) for n in names}, tmp_path / "model.safetensors")
    for model_type, transposed in (("gpt2", True), ("llama", False)):
        table = {
            "model_type": model_type,
            "tie_word_embeddings": True,
            "architectures": ["GPT2LMHeadModel" if transposed else "LlamaModel"],
        }
        (tmp_path / "config.json").write_text(json.dumps(table))
        kinds = find_kinds(str(tmp_path), SafetensorsCheckpoint(tmp_path))
        assert kinds.transposed is transposed
        assert kinds.tied is transposed  # a model without output layer shares nothing with it
        assert kinds.of["score.weight"] == ("rest" if transposed else "linear")
        assert kinds.of["h.0.mlp.c_fc.weight"] == "linear"
    forced = find_kinds(str(tmp_path), SafetensorsCheckpoint(tmp_path), fan_in_fan_out=True)
    assert forced.transposed
    assert forced.of["score.weight"] == "linear"  # who forces it says that all are
    (tmp_path / "config.json").write_text("{")
    assert not find_kinds(str(tmp_path), SafetensorsCheckpoint(tmp_path)).transposed


def test_patterns_name_whole_parts():
    modules = modules_of(["enc.0.fc.weight", "enc.0.myfc.weight", "enc.1.fc.weight", "scale"])
    assert modules == ["enc", "enc.0", "enc.0.fc", "enc.0.myfc", "enc.1", "enc.1.fc"]
    assert matching(["fc"], modules) == ["enc.0.fc", "enc.1.fc"]
    assert matching(["0.*"], modules) == ["enc.0.fc", "enc.0.myfc"]
    assert matching(["enc.?.fc"], modules) == ["enc.0.fc", "enc.1.fc"]
    assert matching([], modules) == []
    with pytest.raises(PlanError, match=r"'fcc' matches none.*'fc'"):
        matching(["fc", "fcc"], modules)


def test_a_whole_module_holds_what_is_below_it_only():
    base = MemoryCheckpoint({n: torch.zeros(2, 2) for n in ("a.fc.weight", "ab.fc.weight")})
    kinds = find_kinds(None, base, whole=["a"])
    assert kinds.of == {"a.fc.weight": "rest", "ab.fc.weight": "linear"}
