"""Heads of tasks: set aside, kept per expert, put on again; and what else of a model is no weight."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, OutputError, PlanError
from taskloom.store.heads import attach_head, folder_name, split_heads, write_heads
from taskloom.store.memory import MemoryCheckpoint

BODY = {"encoder.a": (3, 3), "encoder.b": (3,)}


def toy(seed, *, labels=None, prefix="", extra=()):
    generator = torch.Generator().manual_seed(seed)
    held = {prefix + name: torch.randn(shape, generator=generator) for name, shape in BODY.items()}
    if labels is not None:
        held |= {"classifier.weight": torch.randn(labels, 3, generator=generator)}
        held |= {"classifier.bias": torch.full((labels,), float(seed))}
    return held | dict(extra)


def write(folder, held, **config):
    folder.mkdir(parents=True)
    save_file(held, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"} | config))
    return folder


@pytest.fixture
def pool(tmp_path):
    write(tmp_path / "base", toy(0))
    write(tmp_path / "mood", toy(1, labels=2, prefix="bert."), num_labels=2)
    write(tmp_path / "topic", toy(2, labels=5, prefix="bert."), num_labels=5)
    return tmp_path


def merge(root, *more, experts=("mood", "topic"), base="base", out="out"):
    words = ["merge", "--method", "task_arithmetic", "--set", "scale=0.5", "-o", str(root / out)]
    words += ["--base", str(root / base)] if base else []
    words[2] = "task_arithmetic" if base else "average"
    if not base:
        del words[3:5]
    for name in experts:
        words += ["--expert", str(root / name)]
    return invoke([*words, *map(str, more)])


def test_heads_that_differ_are_refused_with_the_way_out(pool, capsys):
    assert merge(pool, base=None) == 3
    said = capsys.readouterr().err
    assert "'classifier.bias'" in said
    assert "--heads keep" in said
    assert not (pool / "out").exists()
    assert merge(pool) == 3, "a head that only experts have"
    assert not (pool / "out").exists()


def test_heads_are_kept_per_expert(pool):
    assert merge(pool, "--heads", "keep") == 0
    merged = load_file(pool / "out" / "model.safetensors")
    base, mood, topic = (load_file(pool / n / "model.safetensors") for n in ("base", "mood", "topic"))
    assert list(merged) == list(base)
    for name, value in merged.items():
        change = (mood[f"bert.{name}"] - base[name]) + (topic[f"bert.{name}"] - base[name])
        torch.testing.assert_close(value, base[name] + 0.5 * change)
    for name, whole in {"mood": mood, "topic": topic}.items():
        kept = load_file(pool / "out" / "heads" / name / "head.safetensors")
        assert set(kept) == {"classifier.weight", "classifier.bias"}
        assert all(torch.equal(value, whole[key]) for key, value in kept.items())
        config = json.loads((pool / "out" / "heads" / name / "config.json").read_text())
        assert config["num_labels"] == {"mood": 2, "topic": 5}[name]


def test_without_a_base(pool):
    """The first expert says what the body is called."""
    assert merge(pool, "--heads", "keep", base=None) == 0
    merged = load_file(pool / "out" / "model.safetensors")
    assert set(merged) == {"bert.encoder.a", "bert.encoder.b"}
    both = [load_file(pool / n / "model.safetensors")["bert.encoder.a"] for n in ("mood", "topic")]
    torch.testing.assert_close(merged["bert.encoder.a"], sum(both) / 2)


def test_the_model_of_a_task(pool, capsys):
    assert merge(pool, "--heads", "keep") == 0
    attach_head(pool / "out", "topic", pool / "topic-model")
    found = load_file(pool / "topic-model" / "model.safetensors")
    merged = load_file(pool / "out" / "model.safetensors")
    head = load_file(pool / "topic" / "model.safetensors")
    assert set(found) == set(head)
    assert torch.equal(found["bert.encoder.a"], merged["encoder.a"])
    assert torch.equal(found["classifier.bias"], head["classifier.bias"])
    assert json.loads((pool / "topic-model" / "config.json").read_text())["num_labels"] == 5
    assert not (pool / "topic-model" / "heads").exists()
    with pytest.raises(OutputError, match="exists"):
        attach_head(pool / "out", "topic", pool / "topic-model")
    with pytest.raises(CheckpointError, match=r"no head of 'topik'.*Did you mean 'topic'"):
        attach_head(pool / "out", "topik", pool / "x")
    with pytest.raises(CheckpointError, match="--heads keep"):
        attach_head(pool / "topic-model", "topic", pool / "x")


def test_verify_knows_of_heads(pool, capsys):
    assert merge(pool, "--heads", "keep") == 0
    assert invoke(["verify", str(pool / "out"), "--all"]) == 0
    path = pool / "out" / "heads" / "mood" / "head.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    capsys.readouterr()
    assert invoke(["verify", str(pool / "out")]) == 6
    assert "head.safetensors" in capsys.readouterr().err


def test_heads_by_name(pool, capsys):
    extra = {"bert.pooler.weight": torch.ones(2, 2)}
    write(pool / "third", toy(3, labels=3, prefix="bert.", extra=extra))
    experts = ("mood", "third")
    assert merge(pool, "--heads", "keep", experts=experts) == 3, "a pooler is no head by its name"
    assert "pooler" in capsys.readouterr().err
    assert merge(pool, "--heads", "classifier,bert.pooler", experts=experts) == 0
    kept = load_file(pool / "out" / "heads" / "third" / "head.safetensors")
    assert set(kept) == {"classifier.weight", "classifier.bias", "bert.pooler.weight"}


def test_a_name_that_is_no_module(pool, capsys):
    assert merge(pool, "--heads", "classifer") == 2
    assert "'classifer'" in (said := capsys.readouterr().err)
    assert "'classifier'" in said
    assert merge(pool, "--heads", ",") == 2


def test_a_missing_tensor_of_the_body_is_still_refused(pool, capsys):
    held = toy(2, labels=5, prefix="bert.")
    del held["bert.encoder.b"]
    save_file(held, pool / "topic" / "model.safetensors")
    assert merge(pool, "--heads", "keep") == 3
    assert "encoder.b" in capsys.readouterr().err


def test_nothing_but_a_head():
    with pytest.raises(CheckpointError, match="all tensors belong to the head"):
        split_heads([MemoryCheckpoint({"classifier.weight": torch.ones(2)})])
    with pytest.raises(PlanError, match="no model has a module 'x'"):
        split_heads([MemoryCheckpoint({"w": torch.ones(2)})], ["x"])


def test_a_head_within_a_layer_is_none():
    held = {"layers.0.classifier.weight": torch.ones(2), "classifier.weight": torch.ones(2)}
    (split,) = split_heads([MemoryCheckpoint(held)])
    assert list(split.body.tensors) == ["layers.0.classifier.weight"]


def test_names_of_folders(pool):
    assert folder_name("../up") == "up"
    assert folder_name("//") == "head"
    write(pool / "a b", toy(1, labels=2))
    words = ["--expert", f"a b={pool / 'mood'}", "--heads", "keep"]
    assert merge(pool, *words, f"--expert=a-b={pool / 'topic'}", experts=()) == 3


# ---- buffers and ties


def test_integer_buffers_are_copied_from_the_base(pool):
    for seed, name in enumerate(("base", "one", "two")):
        extra = {"position_ids": torch.arange(4) + seed, "mask": torch.tensor([True, seed > 0])}
        write(pool / "ints" / name, toy(seed, extra=extra))
    assert merge(pool / "ints", experts=("one", "two")) == 0
    merged = load_file(pool / "ints" / "out" / "model.safetensors")
    assert merged["position_ids"].tolist() == [0, 1, 2, 3]
    assert merged["position_ids"].dtype == torch.int64
    assert merged["mask"].tolist() == [True, False]


def test_tied_tensors_count_once(pool):
    """A threshold over the whole model sees a tied matrix once, however an expert stores it."""
    from taskloom import merge as in_memory

    generator = torch.Generator().manual_seed(0)
    models = []
    for _ in range(3):
        table = torch.randn(6, 3, generator=generator)
        models.append({"model.embed_tokens.weight": table, "norm": torch.randn(3, generator=generator)})
    options = {"density": 0.4, "scale": 1.0, "scope": "model"}
    once = in_memory(models[0], models[1:], "ties", **options)
    tied = [m | {"lm_head.weight": m["model.embed_tokens.weight"]} for m in models]
    twice = in_memory(tied[0], tied[1:], "ties", **options)
    assert twice["lm_head.weight"] is twice["model.embed_tokens.weight"]
    for name, value in once.items():
        assert torch.equal(twice[name], value)
    for name, held in zip(("base", "one", "two"), models, strict=True):
        copy = {} if name == "base" else {"lm_head.weight": held["model.embed_tokens.weight"].clone()}
        write(pool / "tied" / name, held | copy, tie_word_embeddings=True)
    words = ["merge", "--method", "ties", "--base", str(pool / "tied" / "base")]
    for key, value in options.items():
        words += ["--set", f"{key}={value}"]
    for name in ("one", "two"):
        words += ["--expert", str(pool / "tied" / name)]
    assert invoke([*words, "-o", str(pool / "tied-out")]) == 0
    found = load_file(pool / "tied-out" / "model.safetensors")
    assert set(found) == set(once)
    assert all(torch.equal(found[name], value) for name, value in once.items())


def test_what_an_interrupted_merge_left_is_written_anew(pool):
    """The heads of a run that was killed while it wrote them do not stop the next."""
    splits = split_heads([MemoryCheckpoint(toy(1, labels=2))])
    for _ in range(2):
        assert write_heads(pool / "x", {"a": splits[0]}) == ["a"]


def test_a_tied_expert_of_an_untied_base(pool, capsys):
    table = torch.ones(6, 3)
    held = {"model.embed_tokens.weight": table, "norm": torch.ones(3)}
    write(pool / "untied" / "base", held | {"lm_head.weight": 2 * table})
    write(pool / "untied" / "one", held)
    assert merge(pool / "untied", experts=("one",)) == 3
    said = capsys.readouterr().err
    assert "'lm_head.weight'" in said
    assert "ties it to 'model.embed_tokens.weight'" in said
    assert "tie_word_embeddings" in said


def test_the_card_names_recipe_and_sources(pool):
    assert merge(pool, "--heads", "keep") == 0
    card = (pool / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- merge\n")
    assert "# out\n" in card
    assert "method: task_arithmetic" in card
    assert "scale: 0.5" in card
    for role, name in (("base", "base"), ("expert", "mood"), ("expert", "topic")):
        assert f"| {role} | {name} |" in card
    assert str(pool) not in card, "a card says nothing of the machine"
