"""A merged directory is a model like any other: plain transformers loads and computes it."""

from __future__ import annotations

import json

import pytest
import torch

from taskloom import merge, merge_files
from taskloom.cli.main import invoke
from taskloom.store.heads import attach_head

from .test_vocabulary import WORDS, tiny_llama

IDS = torch.tensor([[2, 3, 4, 1], [4, 4, 2, 0]])


def bert(folder, kind="BertModel", *, seed, near=None, **more):
    """A BERT of 8 dimensions with a tokenizer; ``near`` makes its body a small change of another's."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.3,
        **more,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(config)
    if near is not None:
        body = getattr(model, "bert", model)
        origin = transformers.BertModel.from_pretrained(near).state_dict()
        with torch.no_grad():
            for name, value in body.state_dict().items():
                if value.is_floating_point():
                    value.copy_(origin[name] + 0.05 * torch.randn(value.shape))
    model.save_pretrained(folder)
    tiny_llama(folder / "t", WORDS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "t" / name).rename(folder / name)
    for left in (folder / "t").iterdir():
        left.unlink()
    (folder / "t").rmdir()
    return folder


def plain(auto, folder):
    """Load with transformers; every weight of the file is used, none is made up."""
    model, told = auto.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def same_text(folder, origin):
    from transformers import AutoTokenizer

    text = "good film bad words"
    words = [AutoTokenizer.from_pretrained(each)(text)["input_ids"] for each in (folder, origin)]
    assert words[0] == words[1]


@pytest.mark.parametrize(
    ("method", "options"),
    [("task_arithmetic", {"scale": 0.4}), ("ties", {"density": 0.3, "scale": 1.0})],
)
def test_an_encoder(tmp_path, method, options):
    from transformers import AutoModel

    base = bert(tmp_path / "base", seed=0)
    experts = [bert(tmp_path / n, seed=s, near=base) for s, n in enumerate(("a", "b"), start=1)]
    out = tmp_path / "out"
    merge_files(base, experts, method, out, **options)
    loaded = plain(AutoModel, out)
    other = plain(AutoModel, base)
    other.load_state_dict(merge(base, experts, method, **options))
    with torch.inference_mode():
        found, wanted = (model(IDS).last_hidden_state for model in (loaded, other))
        before = plain(AutoModel, base)(IDS).last_hidden_state
    assert torch.equal(found, wanted)
    assert not torch.allclose(found, before, atol=1e-3)
    same_text(out, base)


@pytest.mark.parametrize("shards", [None, 800])
def test_a_tied_llama_in_one_file_and_in_shards(tmp_path, shards):
    from transformers import AutoModelForCausalLM

    base = tiny_llama(tmp_path / "base", WORDS, tied=True)
    experts = [tiny_llama(tmp_path / n, WORDS, tied=True, seed=s) for s, n in ((1, "a"), (2, "b"))]
    out = tmp_path / "out"
    more = {} if shards is None else {"max_shard_bytes": shards}
    merge_files(base, experts, "task_arithmetic", out, scale=0.5, **more)
    files = sorted(each.name for each in out.glob("*.safetensors"))
    assert len(files) == 1 if shards is None else len(files) > 2
    if shards is not None:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == set(files)
        assert max((out / name).stat().st_size for name in files) < 3000
    loaded = plain(AutoModelForCausalLM, out)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    other = plain(AutoModelForCausalLM, base)
    other.load_state_dict(merge(base, experts, "task_arithmetic", scale=0.5), strict=False)
    other.tie_weights()
    with torch.inference_mode():
        assert torch.equal(loaded(IDS).logits, other(IDS).logits)
    same_text(out, base)


def test_modules_in_memory_give_the_bytes_of_files(tmp_path):
    from transformers import AutoModelForCausalLM

    folders = [tiny_llama(tmp_path / n, WORDS, tied=True, seed=s) for s, n in enumerate("abc")]
    modules = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    with torch.no_grad():
        held = merge(modules[0], modules[1:], "ties", density=0.5, scale=1.0)
    read = merge(folders[0], folders[1:], "ties", density=0.5, scale=1.0)
    assert all(torch.equal(held[name], value) for name, value in read.items())
    assert held["lm_head.weight"] is held["model.embed_tokens.weight"]


def test_classifiers_of_different_tasks(tmp_path):
    """Two BERTs with two and three labels: one encoder, and two models of tasks."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    base = bert(tmp_path / "base", seed=0)
    kind = "BertForSequenceClassification"
    experts = {
        name: bert(tmp_path / name, kind, seed=seed, near=base, num_labels=labels)
        for seed, (name, labels) in enumerate({"mood": 2, "topic": 3}.items(), start=1)
    }
    words = ["merge", "--method", "task_arithmetic", "--set", "scale=0.5", "--base", str(base)]
    words += [word for path in experts.values() for word in ("--expert", str(path))]
    out = tmp_path / "out"
    assert invoke([*words, "-o", str(out)]) == 3, "without a word on heads they do not fit"
    assert invoke([*words, "--heads", "keep", "-o", str(out)]) == 0
    body = plain(AutoModel, out)
    for name, labels in (("mood", 2), ("topic", 3)):
        task = attach_head(out, name, tmp_path / f"{name}-model")
        found = plain(AutoModelForSequenceClassification, task)
        own = plain(AutoModelForSequenceClassification, experts[name])
        assert found.config.num_labels == labels
        assert torch.equal(found.classifier.weight, own.classifier.weight)
        with torch.inference_mode():
            own.bert.load_state_dict(body.state_dict())
            assert torch.equal(found(IDS).logits, own(IDS).logits)
        same_text(task, base)


def test_a_zero_with_a_sign_loses_it():
    """A task vector of zero leaves every number what it is; -0.0 + 0.0 is 0.0, which equals it."""
    base = {"w": torch.tensor([-0.0, 0.0, -1.5, 1e-45])}
    merged = merge(base, [base, base], "task_arithmetic", scale=0.7)["w"]
    assert torch.equal(merged, base["w"])
    assert torch.signbit(merged).tolist() == [False, False, True, False]
