"""Adapters: the same weights that peft itself merges, and clear refusals."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.errors import CheckpointError
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def bert(kind="BertModel", seed=0):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=300,
        max_position_embeddings=12,
        num_labels=3,
    )
    return getattr(transformers, kind)(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=8)
    return transformers.GPT2Model(config)


def randomise(model):
    """Give every trainable number a value that shows in the sum."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3)


def make(model, folder, **options):
    """Save base and adapter; return both paths and peft's own merged state dict."""
    model.save_pretrained(folder / "base")
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6} | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(model, config)
        randomise(tuned)
        tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
    merged = {name: t.clone() for name, t in tuned.merge_and_unload().state_dict().items()}
    return folder / "base", folder / "adapter", merged


def opened(folder, base):
    return AdapterCheckpoint(folder, open_checkpoint(base))


def assert_same(checkpoint, merged):
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.read(name), merged[name], rtol=1e-6, atol=1e-6)


CASES = {
    "plain": {"target_modules": ["query", "value"]},
    "rslora": {"target_modules": ["query", "value"], "use_rslora": True},
    "rank and alpha patterns": {
        "target_modules": ["query", "value", "dense"],
        "rank_pattern": {"layer.0.attention.self.query": 2, "output.dense": 3},
        "alpha_pattern": {r"layer\.[01]\.attention\.self\.value": 20, "query": 1},
    },
    "patterns with rslora": {
        "target_modules": ["query"],
        "rank_pattern": {"layer.1.attention.self.query": 9},
        "use_rslora": True,
    },
    "embeddings": {"target_modules": ["word_embeddings", "query"]},
    "all biases": {"target_modules": ["query"], "bias": "all"},
    "modules to save": {"target_modules": ["query"], "modules_to_save": ["pooler"]},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_what_peft_merges(tmp_path, options):
    base, adapter, merged = make(bert(), tmp_path, **options)
    checkpoint = opened(adapter, base)
    assert isinstance(checkpoint, Checkpoint)
    assert_same(checkpoint, merged)
    plain = open_checkpoint(base)
    assert checkpoint.changed
    for name in plain.tensors:
        same = torch.equal(checkpoint.read(name), plain.read(name))
        assert same == (name not in checkpoint.changed)


def test_gpt2_stores_weights_transposed(tmp_path):
    base, adapter, merged = make(
        gpt2(), tmp_path, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
    )
    assert_same(opened(adapter, base), merged)


def test_a_head_saved_whole_is_taken_over(tmp_path):
    model = bert("BertForSequenceClassification")
    base, adapter, merged = make(model, tmp_path, target_modules=["query"], task_type="SEQ_CLS")
    checkpoint = opened(adapter, base)
    assert "classifier.weight" in checkpoint.changed
    assert_same(checkpoint, merged)


def respell(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file({change(name): value for name, value in load_file(file).items()}, file)


def test_keys_that_carry_the_adapters_name(tmp_path):
    model = bert("BertForSequenceClassification")
    base, adapter, merged = make(model, tmp_path, target_modules=["query"], task_type="SEQ_CLS")

    def change(name):
        name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
        return name.replace("classifier.", "classifier.modules_to_save.default.")

    respell(adapter, change)
    assert_same(opened(adapter, base), merged)
    respell(adapter, lambda name: name.replace("modules_to_save.default.", "modules_to_save."))
    assert_same(opened(adapter, base), merged)


def test_a_nested_prefix_is_taken_off(tmp_path):
    base, adapter, merged = make(bert(), tmp_path, target_modules=["query"])
    respell(adapter, lambda name: "base_model.model." + name)
    assert_same(opened(adapter, base), merged)


def test_an_adapter_of_the_wrapped_model_fits_the_bare_one(tmp_path):
    base, adapter, merged = make(bert(), tmp_path, target_modules=["query"], bias="all")
    respell(adapter, lambda n: n.replace("base_model.model.", "base_model.model.bert."))
    assert_same(opened(adapter, base), merged)


def test_an_adapter_of_the_bare_model_fits_the_wrapped_one(tmp_path):
    model = bert("BertForSequenceClassification")
    base, adapter, merged = make(model, tmp_path, target_modules=["query", "value"])
    respell(adapter, lambda n: n.replace("base_model.model.bert.", "base_model.model."))
    assert_same(opened(adapter, base), merged)


def test_factors_are_the_change(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query", "word_embeddings"], lora_alpha=10)
    checkpoint, plain = opened(adapter, base), open_checkpoint(base)
    for name in checkpoint.changed:
        b, a, scaling = checkpoint.factors(name)
        assert scaling == 10 / 4
        assert (b.shape[1], a.shape[0]) == (4, 4)
        change = checkpoint.read(name) - plain.read(name)
        torch.testing.assert_close(scaling * b @ a, change, rtol=1e-5, atol=1e-5)
    assert checkpoint.factors("pooler.dense.weight") is None
    with pytest.raises(CheckpointError, match="no tensor 'nothing'"):
        checkpoint.factors("nothing")


def test_an_embedding_saved_beside_its_factors(tmp_path):
    base, adapter, merged = make(bert(), tmp_path, target_modules=["word_embeddings"])
    file, name = adapter / "adapter_model.safetensors", "embeddings.word_embeddings"
    tensors, plain = load_file(file), open_checkpoint(base).read(f"{name}.weight")
    key = f"base_model.model.{name}.base_layer.weight"
    save_file(tensors | {key: plain}, file)
    assert_same(opened(adapter, base), merged)
    assert opened(adapter, base).factors(f"{name}.weight") is not None
    save_file(tensors | {key: plain + 1}, file)
    checkpoint = opened(adapter, base)
    assert checkpoint.factors(f"{name}.weight") is None, "the change is no longer low-rank"
    torch.testing.assert_close(
        checkpoint.read(f"{name}.weight"), merged[f"{name}.weight"] + 1, rtol=1e-5, atol=1e-5
    )


def test_rows_come_out_the_same_whichever_are_asked_for(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query", "word_embeddings"])
    checkpoint = opened(adapter, base)
    for name in checkpoint.changed:
        whole = checkpoint.read(name)
        for rows in (slice(0, 1), slice(5, 13), slice(200, 270), slice(255, 257), slice(9, 9)):
            assert torch.equal(checkpoint.read(name, rows), whole[rows])


def test_sums_in_float32_and_casts_to_the_bases_dtype(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query"])
    name = "encoder.layer.0.attention.self.query.weight"
    half = {n: t.bfloat16() for n, t in load_file(base / "model.safetensors").items()}
    checkpoint = AdapterCheckpoint(adapter, MemoryCheckpoint(half))
    b, a, scaling = checkpoint.factors(name)
    expected = (half[name].float() + (b.float() @ a.float()) * scaling).bfloat16()
    found = checkpoint.read(name)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_gradients_reach_a_base_in_memory(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query"])
    name = "encoder.layer.0.attention.self.query.weight"
    weights = load_file(base / "model.safetensors")
    weights[name].requires_grad_()
    AdapterCheckpoint(adapter, MemoryCheckpoint(weights)).read(name).sum().backward()
    assert torch.equal(weights[name].grad, torch.ones(16, 16))


def test_digest_is_that_of_the_merged_weights(tmp_path, cache):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query"])
    checkpoint = opened(adapter, base)
    whole = MemoryCheckpoint({name: checkpoint.read(name) for name in checkpoint.tensors})
    assert checkpoint.digest() == whole.digest() == opened(adapter, base).digest()
    assert checkpoint.digest() != open_checkpoint(base).digest()
    memory = AdapterCheckpoint(adapter, MemoryCheckpoint(load_file(base / "model.safetensors")))
    assert memory.digest() == whole.digest()


# refusals


@pytest.fixture
def pair(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["query"])
    return base, adapter


def configure(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "'use_dora'"),
        ({"lora_bias": True}, "'lora_bias'"),
        ({"peft_type": "VERA"}, "type LORA, found 'VERA'"),
        ({"peft_type": None}, "type LORA, found None"),
        ({"target_parameters": ["experts"]}, "'target_parameters'"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
        ({"layer_replication": [[0, 1]]}, "'layer_replication'"),
        ({"use_qalora": True}, "'use_qalora'"),
        ({"something_of_next_year": {"on": True}}, "'something_of_next_year'"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "changes the base's weights"),
        ({"r": 0}, "a positive integer, found 0"),
        ({"r": True}, "a positive integer, found True"),
        ({"r": "8"}, "a positive integer, found '8'"),
        ({"lora_alpha": None}, "a finite number, found None"),
        ({"lora_alpha": float("inf")}, "a finite number, found inf"),
        ({"rank_pattern": {"query": 1.5}}, r"rank_pattern\['query'\]"),
        ({"rank_pattern": ["query"]}, "expected patterns with values"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
        ({"r": 5}, "expected rank 5"),
    ],
)
def test_configurations_that_are_refused(pair, changes, message):
    base, adapter = pair
    configure(adapter, **changes)
    with pytest.raises(CheckpointError, match=message):
        opened(adapter, base)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 1, "r": 2}', "\xff"])
def test_a_configuration_that_is_no_json_object(pair, text):
    base, adapter = pair
    (adapter / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: expected"):
        opened(adapter, base)


def test_missing_files(pair):
    base, adapter = pair
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected adapter_model\.safetensors beside"):
        opened(adapter, base)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        opened(adapter, base)


def test_weights_that_lie_outside_the_adapters_directory(pair, tmp_path):
    base, adapter = pair
    file = adapter / "adapter_model.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="a link to"):
        opened(adapter, base)


def test_an_adapter_of_another_base_names_both(pair, tmp_path):
    base, adapter = pair
    for weights, message in [
        (gpt2(), "which <other> does not have"),
        (bert().encoder.layer[0], "which <other> does not have"),
    ]:
        with pytest.raises(CheckpointError, match=message) as caught:
            AdapterCheckpoint(adapter, MemoryCheckpoint(weights, "<other>"))
        assert str(adapter) in str(caught.value)
        assert "adapter of another base" in str(caught.value)
    torch.manual_seed(0)
    config = transformers.BertConfig.from_pretrained(base)
    config.hidden_size = 20
    wider = MemoryCheckpoint(transformers.BertModel(config), "<wider>")
    with pytest.raises(CheckpointError, match=r"\[16, 16\], found \[20, 20\] in <wider>"):
        AdapterCheckpoint(adapter, wider)


def test_a_head_that_the_base_does_not_have(tmp_path):
    model = bert("BertForSequenceClassification")
    _, adapter, _ = make(model, tmp_path, target_modules=["query"], task_type="SEQ_CLS")
    with pytest.raises(CheckpointError, match=r"'classifier\.\w+' whole .* no such tensor"):
        AdapterCheckpoint(adapter, MemoryCheckpoint(bert("BertModel")))


def test_fan_in_fan_out_that_contradicts_the_shapes(tmp_path):
    base, adapter, _ = make(bert(), tmp_path, target_modules=["intermediate.dense"])
    configure(adapter, fan_in_fan_out=True)
    with pytest.raises(CheckpointError, match="check fan_in_fan_out"):
        opened(adapter, base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace("lora_A", "lora_A.one"), None),
        (lambda n: n.replace("lora_A.weight", "lora_magnitude_vector"), "not of plain LoRA"),
        (lambda n: n.replace("lora_B.weight", "lora_B.bias"), "not of plain LoRA"),
        (lambda n: n.replace("lora_B", "lora_A.two"), "expected one adapter, found two"),
        (lambda n: n.replace("0.attention.self.query.lora_B", "0.x.lora_B"), "found no lora_"),
    ],
)
def test_keys_that_are_refused(pair, change, message):
    base, adapter = pair
    respell(adapter, change)
    if message is None:
        opened(adapter, base)
        return
    with pytest.raises(CheckpointError, match=message):
        opened(adapter, base)


def test_factors_that_are_refused(pair):
    base, adapter = pair
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t.to(torch.int8) for n, t in tensors.items()}, file)
    with pytest.raises(CheckpointError, match="expected floating-point factors"):
        opened(adapter, base)
    save_file({n: t[..., None, None].contiguous() for n, t in tensors.items()}, file)
    with pytest.raises(CheckpointError, match="convolutions"):
        opened(adapter, base)
    save_file({}, file)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        opened(adapter, base)
    save_file(tensors, file)
    whole = load_file(base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"floating-point weights, found torch\.int8"):
        AdapterCheckpoint(adapter, MemoryCheckpoint({n: t.to(torch.int8) for n, t in whole.items()}))
