"""LoRA on a language model: what it learns, what is kept, and CAT on what it wrote."""

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy

import taskloom
from taskloom.errors import DataError, NumericalError, OutputError
from taskloom.learn import language
from taskloom.learn.language import TokenOptions, answer_loss, tune_adapter
from taskloom.learn.modules.cat import weights_of
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.models.language import LanguageModel
from taskloom.store.open import open_checkpoint
from tiny_language import tiny_llama

REDS = [("say red :", "one two"), ("say blue :", "two three"), ("say up :", "three one")]
COUNTS = [("count left :", "one"), ("count right :", "two"), ("count down :", "three")]
HOW = TokenOptions(steps=60, batch_size=3, learning_rate=0.02, rank=4, alpha=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("language") / "llama")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """The model, two trained adapters, and what training said."""
    place = tmp_path_factory.mktemp("adapters")
    model = LanguageModel.load(folder)
    return model, [
        tune_adapter(model, each, place / name, HOW) for name, each in (("say", REDS), ("count", COUNTS))
    ]


def test_the_loss_is_of_the_answers_tokens(made):
    model, _ = made
    inputs, labels = model.batch(REDS)
    with torch.no_grad():
        logits = model.module(**inputs).logits
        found = answer_loss(model, REDS)
    parts = [
        cross_entropy(logits[row, place - 1], labels[row, place])
        for row in range(3)
        for place in range(labels.shape[1])
        if labels[row, place] >= 0
    ]
    assert len(parts) == 9  # two tokens and the end, three times
    assert float(found) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)


def test_it_learns_and_leaves_the_model_as_it_was(made, folder):
    model, (say, count) = made
    assert len(say.losses) == HOW.steps
    assert sum(say.losses[-5:]) < 0.2 * sum(say.losses[:5])
    untouched = LanguageModel.load(folder)
    for name, tensor in untouched.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], tensor)
    assert not model.module.training
    assert all(p.requires_grad for p in model.module.parameters())
    base = open_checkpoint(folder)
    for adapter, exchanges in ((say, REDS), (count, COUNTS)):
        tuned = open_checkpoint(adapter.directory, base=base)
        assert len(tuned.low_rank) == 14  # seven maps in each block, not the last one
        untouched.put({name: tuned.read(name) for name in tuned.tensors})
        assert untouched.says(exchanges).all()
        assert untouched.answers([exchanges[0][0]], tokens=4) == [exchanges[0][1]]


def test_what_is_kept_is_what_peft_loads(made, folder):
    import peft
    from transformers import AutoModelForCausalLM

    model, (say, _) = made
    inputs, _ = model.batch(REDS)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tuned = peft.PeftModel.from_pretrained(plain, say.directory).eval()
        wanted = tuned(**inputs).logits
    base = open_checkpoint(folder)
    applied = taskloom.merge(
        base, [open_checkpoint(say.directory, base=base)], "task_arithmetic", scale=1.0
    )
    other = LanguageModel.load(folder)
    other.put(applied)
    with torch.no_grad():
        assert torch.allclose(other.module(**inputs).logits, wanted, atol=1e-5)


def test_seed_and_order_decide(made, folder, tmp_path):
    model, (say, _) = made
    again = tune_adapter(model, REDS, tmp_path / "again", HOW)
    assert again.losses == say.losses
    other = tune_adapter(model, REDS, tmp_path / "other", HOW.model_copy(update={"seed": 1, "steps": 3}))
    assert other.losses != say.losses[:3]
    places = [language._places(3, HOW.model_copy(update={"batch_size": 2}), step) for step in range(3)]
    flat = [place for step in places for place in step]
    assert sorted(flat[:3]) == sorted(flat[3:]) == [0, 1, 2]


def test_cat_weighs_adapters_of_a_language_model(made, folder, tmp_path):
    """From a base that stores tied weights once; the adapter that is kept gives what was fitted."""
    model, (say, count) = made
    base = open_checkpoint(folder)
    assert "lm_head.weight" not in base.tensors
    skills = {
        name: open_checkpoint(each.directory, base=base)
        for name, each in (("say", say), ("count", count))
    }
    problem = Problem(
        base,
        skills,
        {"say": Probe.of_module(model.module)},
        {"say": Examples.of([model.batch(REDS)])},
    )
    fitted = taskloom.fit_module("cat", problem, epochs=30, learning_rate=0.2)
    assert fitted.trace[-1].loss < 0.8 * fitted.trace[0].loss
    row = weights_of(fitted)
    assert len(row) == 14
    assert sum(each["say"] for each in row.values()) > sum(each["count"] for each in row.values())
    kept = open_checkpoint(fitted.save(tmp_path / "cat") / "adapter", base=base)
    other = LanguageModel.load(folder)
    other.put({name: kept.read(name) for name in kept.tensors})
    with torch.no_grad():
        last = float(answer_loss(other, REDS))
    assert last < fitted.trace[0].loss
    halves = taskloom.merge(base, skills, "average")
    other.put(halves)
    with torch.no_grad():
        assert float(answer_loss(other, REDS)) == pytest.approx(fitted.trace[0].loss, rel=1e-4)


def test_bad_input(made, tmp_path, monkeypatch):
    model, (say, _) = made
    with pytest.raises(DataError, match="no exchanges"):
        tune_adapter(model, [], tmp_path / "none")
    with pytest.raises(OutputError):
        tune_adapter(model, REDS, say.directory, HOW)
    monkeypatch.setattr(language, "answer_loss", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    with pytest.raises(NumericalError, match="expected a finite loss in step 1 of 60, found loss nan"):
        tune_adapter(model, REDS, tmp_path / "nan", HOW)
    assert not (tmp_path / "nan").exists()
    assert not [name for name, _ in model.module.named_modules() if "lora" in name]
