"""Extraction: peft and we load it, it is the optimum, and what is lost is said."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from lowrank_models import bert, config_of, fine_tune, gpt2, peft_loaded, peft_merged, raw_base, weights
from safetensors.torch import load_file

import taskloom
from taskloom.errors import CheckpointError, NumericalError, OutputError, PlanError
from taskloom.store.open import open_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def truncated(delta, rank):
    u, s, v = np.linalg.svd(delta.double().numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank])


def check_merged(base, expert, merged, ranks):
    """Every matrix is base + numpy's truncation, everything else the expert's."""
    before, after = weights(base), weights(expert)
    for name in before:
        expected = after[name]
        if name in ranks:
            expected = before[name] + truncated(after[name] - before[name], ranks[name]).float()
        torch.testing.assert_close(merged[name], expected, atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_rank_gives_base_plus_the_truncated_change(tmp_path, kind):
    model = bert(kind)
    base, expert = fine_tune(model, tmp_path)
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    ranks = {t.name: t.rank for t in report.tensors if t.rank}
    assert set(ranks.values()) == {2}
    assert sum(t.stored == "embedding" for t in report.tensors) == 3
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, ranks)
    ours = open_checkpoint(tmp_path / "lora", base=open_checkpoint(base))
    check_merged(base, expert, {name: ours.read(name) for name in ours.tensors}, ranks)
    config = config_of(tmp_path / "lora")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 2, {})
    assert config["bias"] == "lora_only"
    assert "embeddings.LayerNorm" in " ".join(config["modules_to_save"])


def test_the_error_is_the_optimum_and_adds_up(tmp_path):
    base, expert = fine_tune(bert(), tmp_path)
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    before, after = weights(base), weights(expert)
    squares, lost = 0.0, 0.0
    for loss in report.tensors:
        delta = (after[loss.name] - before[loss.name]).double().numpy()
        norm = np.linalg.norm(delta)
        assert loss.norm == pytest.approx(norm, rel=1e-5)
        assert loss.shape == delta.shape
        if loss.rank:
            s = np.linalg.svd(delta, compute_uv=False)
            best = np.sqrt((s[2:] ** 2).sum())
            assert loss.error * norm == pytest.approx(best, rel=1e-4, abs=1e-5)
            lost += best**2
        else:
            assert (loss.error, loss.energy, loss.method) == (0.0, 1.0, None)
        assert loss.energy == pytest.approx(1 - loss.error**2)
        squares += norm**2
    assert report.error == pytest.approx(np.sqrt(lost / squares), rel=1e-4)
    assert report.energy == pytest.approx(1 - report.error**2)
    assert report.lost == ()
    assert report.adapter_bytes == (tmp_path / "lora" / "adapter_model.safetensors").stat().st_size


def test_energy_gives_each_module_its_own_rank(tmp_path):
    model = bert()
    base, expert = fine_tune(model, tmp_path, noise=0.1)
    report = taskloom.extract(base, expert, tmp_path / "lora", energy=0.9)
    ranks = {t.name: t.rank for t in report.tensors if t.rank}
    assert len(set(ranks.values())) > 1
    before, after = weights(base), weights(expert)
    for name, rank in ranks.items():
        s = np.linalg.svd((after[name] - before[name]).numpy(), compute_uv=False) ** 2
        share = s.cumsum() / s.sum()
        assert share[rank - 1] >= 0.9 - 1e-6
        assert rank == 1 or share[rank - 2] < 0.9
    config = config_of(tmp_path / "lora")
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, ranks)
    capped = taskloom.extract(base, expert, tmp_path / "capped", energy=0.9, max_rank=2)
    assert max(t.rank for t in capped.tensors if t.rank) == 2


def test_energy_one_gives_the_expert_back(tmp_path):
    model = bert()
    base, expert = fine_tune(model, tmp_path, noise=0.1)
    report = taskloom.extract(base, expert, tmp_path / "lora", energy=1.0)
    assert report.error < 1e-5
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, {})


def test_before_merging_peft_computes_what_the_merged_model_does(tmp_path):
    model = bert().eval()
    base, expert = fine_tune(model, tmp_path)
    taskloom.extract(base, expert, tmp_path / "lora", rank=3)
    words = torch.arange(8)[None]
    loaded = peft_loaded(model, tmp_path / "lora")
    with torch.no_grad():
        apart = loaded(input_ids=words).last_hidden_state
        joined = loaded.merge_and_unload()(input_ids=words).last_hidden_state
    torch.testing.assert_close(apart, joined, atol=1e-5, rtol=1e-4)


def test_gpt2_stores_its_weights_transposed(tmp_path):
    model = gpt2("GPT2ForSequenceClassification")
    base, expert = fine_tune(model, tmp_path)
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    assert config_of(tmp_path / "lora")["fan_in_fan_out"] is True
    kinds = {t.name: t.stored for t in report.tensors}
    assert kinds["score.weight"] == "whole"  # an ordinary linear layer among transposed ones
    assert kinds["transformer.wte.weight"] == "embedding"
    assert kinds["transformer.h.0.attn.c_attn.weight"] == "low-rank"
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, {t.name: t.rank for t in report.tensors if t.rank})
    assert report.warnings == ()


def test_a_tied_embedding_needs_merging_and_the_report_says_so(tmp_path):
    model = gpt2("GPT2LMHeadModel").eval()
    base, expert = fine_tune(model, tmp_path)
    report = taskloom.extract(base, expert, tmp_path / "lora", energy=1.0)
    (warning,) = report.warnings
    assert "change of transformer.wte.weight reaches the output layer only once" in warning
    words = torch.arange(6)[None]
    loaded = peft_loaded(model, tmp_path / "lora")
    wanted = transformers.GPT2LMHeadModel.from_pretrained(expert).eval()
    with torch.no_grad():
        logits = wanted(words).logits
        apart, joined = loaded(words).logits, loaded.merge_and_unload()(words).logits
    assert float((apart - logits).abs().max()) > 0.5
    torch.testing.assert_close(joined, logits, atol=1e-4, rtol=1e-4)


def test_from_modules_the_classes_tell_what_is_what(tmp_path):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lookup = torch.nn.Embedding(9, 6)
            self.embed = torch.nn.Linear(6, 5)
            self.norm = torch.nn.LayerNorm(5)
            self.conv = torch.nn.Conv1d(5, 4, 3)

    torch.manual_seed(0)
    base = Odd()
    expert = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter += torch.randn(parameter.shape)
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=9)
    assert {t.name: (t.stored, t.rank) for t in report.tensors} == {
        "lookup.weight": ("embedding", 6),
        "embed.weight": ("low-rank", 5),
        "embed.bias": ("bias", None),
        "norm.weight": ("whole", None),
        "norm.bias": ("whole", None),
        "conv.weight": ("whole", None),
        "conv.bias": ("whole", None),
    }
    merged = peft_merged(base, tmp_path / "lora")
    for name, value in expert.state_dict().items():
        torch.testing.assert_close(merged[name], value, atol=1e-5, rtol=1e-5)


def test_unchanged_tensors_are_not_stored(tmp_path):
    model = bert()
    base, expert = fine_tune(model, tmp_path, touch=lambda n: "layer.1.attention.self" in n)
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    assert len(report.tensors) == 6
    assert report.unchanged == len(weights(base)) - 6
    config = config_of(tmp_path / "lora")
    assert (
        config["target_modules"]
        == [f"encoder.layer.1.attention.self.{name}" for name in ("query", "key", "value")]
        or len(config["target_modules"]) == 3
    )
    assert config["modules_to_save"] is None
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, {t.name: 2 for t in report.tensors if t.rank})


def test_biases_of_modules_that_keep_their_matrix(tmp_path):
    model = bert()
    touched = ("query.weight", "bias")
    base, expert = fine_tune(model, tmp_path, touch=lambda n: n.endswith(touched))
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    assert {t.stored for t in report.tensors} == {"low-rank", "bias"}
    assert config_of(tmp_path / "lora")["bias"] == "all"
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, {t.name: 2 for t in report.tensors if t.rank})


def test_include_exclude_and_whole_choose_modules(tmp_path):
    model = bert("BertForSequenceClassification")
    base, expert = fine_tune(model, tmp_path)
    report = taskloom.extract(
        base,
        expert,
        tmp_path / "lora",
        rank=2,
        include=["encoder.*", "classifier"],
        exclude=["layer.0.attention.self.*"],
        whole=["classifier"],
    )
    kinds = {t.name: t.stored for t in report.tensors}
    assert kinds["bert.embeddings.word_embeddings.weight"] == "whole"
    assert kinds["bert.encoder.layer.0.attention.self.query.weight"] == "whole"
    assert kinds["bert.encoder.layer.1.attention.self.query.weight"] == "low-rank"
    assert kinds["classifier.weight"] == kinds["classifier.bias"] == "whole"
    merged = peft_merged(model, tmp_path / "lora")
    check_merged(base, expert, merged, {t.name: 2 for t in report.tensors if t.rank})


def toy(tmp_path, extra, rank_of_change=1):
    """Write a base and an expert with one matrix and ``extra``, which the expert adds 1 to."""
    torch.manual_seed(0)
    base = {"block.fc.weight": torch.randn(6, 4), "block.fc.bias": torch.zeros(6), **extra}
    moved = {name: value + 1 for name, value in base.items()}
    return raw_base(tmp_path / "base", base), raw_base(tmp_path / "expert", moved)


@pytest.mark.parametrize("name", ["logit_scale", "block.cls_token"])
def test_what_peft_has_no_place_for_is_refused_or_dropped_with_a_report(tmp_path, name):
    base, expert = toy(tmp_path, {name: torch.zeros(2)})
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}.*no adapter can hold.*Drop the rest"):
        taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    assert not (tmp_path / "lora").exists()
    report = taskloom.extract(base, expert, tmp_path / "lora", rank=2, drop_rest=True)
    (lost,) = report.lost
    assert (lost.name, lost.error, lost.energy) == (name, 1.0, 0.0)
    assert lost.norm == pytest.approx(2**0.5)
    assert report.error == pytest.approx((2 / (24 + 6 + 2)) ** 0.5, rel=1e-5)
    ours = open_checkpoint(tmp_path / "lora", base=open_checkpoint(base))
    assert torch.equal(ours.read(name), torch.zeros(2))


def test_targets_are_named_exactly_where_ends_of_names_agree(tmp_path):
    class Twins(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(4, 4)
            self.block = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})

    torch.manual_seed(0)
    base = Twins()
    expert = copy.deepcopy(base)
    with torch.no_grad():
        expert.fc.weight += torch.randn(4, 4)
    taskloom.extract(base, expert, tmp_path / "lora", rank=4)
    assert config_of(tmp_path / "lora")["target_modules"] == "fc"
    merged = peft_merged(base, tmp_path / "lora")
    for name, value in expert.state_dict().items():
        torch.testing.assert_close(merged[name], value)


def test_a_module_to_save_that_peft_would_confuse_is_kept_too_or_refused(tmp_path):
    torch.manual_seed(0)
    norms = {"norm.weight": torch.ones(4), "block.norm.weight": torch.ones(4)}
    base = {"a.weight": torch.randn(4, 4), **norms}
    expert = {"a.weight": torch.randn(4, 4), **norms, "norm.weight": torch.zeros(4)}
    taskloom.extract(base, expert, tmp_path / "lora", rank=4)
    assert config_of(tmp_path / "lora")["modules_to_save"] == ["block.norm", "norm"]
    stored = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert torch.equal(stored["base_model.model.block.norm.weight"], torch.ones(4))
    base = {"a.fc.weight": torch.randn(4, 4), "fc.weight": torch.randn(4, 4)}
    expert = {name: value + torch.randn(4, 4) for name, value in base.items()}
    with pytest.raises(CheckpointError, match=r"confuse fc with 'a\.fc'"):
        taskloom.extract(base, expert, tmp_path / "no", rank=4, include=["a.fc"])


def test_randomised_above_the_stated_size(tmp_path):
    model = bert()
    base, expert = fine_tune(model, tmp_path, noise=1e-4)
    exact = taskloom.extract(base, expert, tmp_path / "a", rank=1)
    drawn = taskloom.extract(base, expert, tmp_path / "b", rank=1, exact_up_to=1)
    big = [t.name for t in drawn.tensors if t.method == "randomised"]
    assert big == []  # 11 columns are more than half of 16: the full one is cheaper
    assert [t.error for t in exact.tensors] == [t.error for t in drawn.tensors]
    torch.manual_seed(0)
    base = {"fc.weight": torch.randn(60, 50)}
    expert = {"fc.weight": base["fc.weight"] + torch.randn(60, 3) @ torch.randn(3, 50)}
    report = taskloom.extract(base, expert, tmp_path / "c", rank=3, exact_up_to=20)
    assert report.tensors[0].method == "randomised"
    assert report.error < 1e-4
    again = taskloom.extract(base, expert, tmp_path / "d", rank=3, exact_up_to=20)
    assert again.error == report.error
    one, two = (load_file(tmp_path / d / "adapter_model.safetensors") for d in "cd")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_bfloat16_models_and_factors(tmp_path):
    torch.manual_seed(0)
    base = {"fc.weight": torch.randn(12, 10).bfloat16()}
    expert = {
        "fc.weight": (base["fc.weight"].float() + torch.randn(12, 1) @ torch.randn(1, 10)).bfloat16()
    }
    fine = taskloom.extract(base, expert, tmp_path / "a", energy=1.0)
    rough = taskloom.extract(base, expert, tmp_path / "b", energy=1.0, dtype=torch.bfloat16)
    assert fine.error < 1e-5 < 1e-4 < rough.error < 1e-2
    ours = open_checkpoint(tmp_path / "a", base=open_checkpoint(base))
    assert ours.read("fc.weight").dtype == torch.bfloat16
    torch.testing.assert_close(ours.read("fc.weight"), expert["fc.weight"], rtol=1e-2, atol=1e-2)


def test_an_adapter_can_be_extracted_again(tmp_path):
    base, expert = fine_tune(bert(), tmp_path)
    taskloom.extract(base, expert, tmp_path / "first", rank=3)
    second = taskloom.extract(base, tmp_path / "first", tmp_path / "second", rank=3)
    assert second.error < 1e-5


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found neither"),
        ({"rank": 2, "energy": 0.5}, "found both"),
        ({"rank": 2, "max_rank": 3}, "max_rank limits"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 95}, r"\(0, 1\]"),
        ({"rank": 2, "include": ["fcc"]}, "'fcc' matches none.*Did you mean 'fc'"),
        ({"rank": 2, "whole": ["hhhhh"]}, "'hhhhh' matches none"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    base, expert = toy(tmp_path, {})
    with pytest.raises(PlanError, match=message):
        taskloom.extract(base, expert, tmp_path / "lora", **options)
    assert not (tmp_path / "lora").exists()


def test_nothing_to_extract(tmp_path):
    base, expert = toy(tmp_path, {})
    with pytest.raises(CheckpointError, match="none of its matrices differs"):
        taskloom.extract(base, base, tmp_path / "lora", rank=2)
    with pytest.raises(CheckpointError, match="none of its matrices differs"):
        taskloom.extract(base, expert, tmp_path / "lora", rank=2, exclude=["fc"])


def test_nan_and_other_models_are_refused(tmp_path):
    base = {"fc.weight": torch.ones(3, 3)}
    sick = {"fc.weight": torch.tensor([[1.0, float("nan"), 2.0]] * 3)}
    with pytest.raises(NumericalError, match=r"'fc\.weight': 3 values"):
        taskloom.extract(base, sick, tmp_path / "lora", rank=1)
    with pytest.raises(CheckpointError, match="expected shape"):
        taskloom.extract(base, {"fc.weight": torch.ones(3, 4)}, tmp_path / "lora", rank=1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_survives(tmp_path):
    base, expert = toy(tmp_path, {})
    taskloom.extract(base, expert, tmp_path / "lora", rank=1)
    with pytest.raises(OutputError, match="not empty"):
        taskloom.extract(base, expert, tmp_path / "lora", rank=2)
    assert config_of(tmp_path / "lora")["r"] == 1
    taskloom.extract(base, expert, tmp_path / "lora", rank=2, overwrite=True)
    assert config_of(tmp_path / "lora")["r"] == 2
    assert sorted(p.name for p in (tmp_path / "lora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
