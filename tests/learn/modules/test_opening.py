"""The folder a module is kept in, and the wrapper that puts it on transformers models."""

import pytest
import torch
from safetensors.torch import load_file

import taskloom
from taskloom.errors import CheckpointError, IntegrityError, OutputError, PlanError
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.store.memory import MemoryCheckpoint
from tiny_models import texts, tiny_bert

from .small import Deep, averaged, inputs, moved, problem

KINDS = ("surgery", "surgery_v2")


def same(one, other):
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
        assert tensor.dtype == other[name].dtype


@pytest.fixture
def saved(tmp_path):
    on = problem()
    fitted = fit_module("surgery_v2", on, averaged(on), steps=2, rank=2)
    return fitted, fitted.save(tmp_path / "module")


def test_what_is_opened_is_what_was_saved(saved):
    fitted, folder = saved
    opened = open_module(folder, Deep())
    same(opened.fitted.tensors, fitted.tensors)
    same(load_file(folder / "module.safetensors"), dict(fitted.tensors))
    assert opened.fitted.digest() == fitted.digest()
    for name in ("kind", "layout", "options", "said", "trace"):
        assert getattr(opened.fitted, name) == getattr(fitted, name)
    with torch.no_grad():
        wanted = open_module(fitted, Deep())(inputs(3), task="mood")
        assert torch.equal(opened(inputs(3), task="mood"), wanted)
    assert (folder / "module.safetensors").stat().st_size >= fitted.bytes_stored
    assert sorted(p.name for p in folder.iterdir()) == ["module.json", "module.safetensors"]


def test_a_folder_that_is_not_what_was_written(saved, tmp_path):
    fitted, folder = saved
    with pytest.raises(OutputError, match="exists and is not empty"):
        fitted.save(folder)
    weights = folder / "module.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"module\.safetensors is not what was written"):
        open_module(folder, Deep())
    weights.unlink()
    with pytest.raises(IntegrityError, match=r"module\.safetensors is missing"):
        open_module(folder, Deep())
    for text, reason in (("{", "it is not JSON"), ("[]", "found something else")):
        (folder / "module.json").write_text(text)
        with pytest.raises(CheckpointError, match=reason):
            open_module(folder, Deep())
    with pytest.raises(CheckpointError, match="holds no fitted module"):
        open_module(tmp_path / "nothing", Deep())


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    on = problem()
    fitted = fit_module("surgery", on, averaged(on), steps=0)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("taskloom.learn.modules.kit.artefact.write_safetensors", fail)
    with pytest.raises(OutputError, match="full"):
        fitted.save(tmp_path / "module")
    assert list(tmp_path.iterdir()) == []


def test_tasks_are_named_where_they_differ(saved):
    _, folder = saved
    opened = open_module(folder, Deep())
    with pytest.raises(PlanError, match=r"task None is none of them: It was fitted for: mood, topic"):
        opened(inputs(2))
    assert opened.tasks == ("mood", "topic")
    assert not opened.training


# --- transformers ------------------------------------------------------------------------------


def head(task, dim, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dim, generator=generator).numpy()
    return Head(weight, torch.zeros(classes).numpy(), tuple(map(str, range(classes))), task)


def over(encoder, data):
    """Return a problem over an encoder: two tasks, an expert of each, heads outside."""
    base = {name: t.clone() for name, t in encoder.state_dict().items()}
    heads = {task: head(task, encoder.dim, 3, k) for k, task in enumerate(data)}
    experts = {f"{task} expert": moved(base, 5 + k, 0.05) for k, task in enumerate(data)}
    return heads, Problem(
        MemoryCheckpoint(base),
        {name: MemoryCheckpoint(w, name) for name, w in experts.items()},
        {task: Probe.of_encoder(encoder, heads[task]) for task in data},
        {task: Examples.of([(encoder.batch(x), None)]) for task, x in data.items()},
        own={task: f"{task} expert" for task in data},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_bert(tmp_path, kind):
    """Fitted on an encoder of the house, saved, put on what AutoModel loads of the merged folder."""
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_bert(tmp_path / "base")
    encoder = Encoder.load(folder)
    given = texts(12)[0]
    heads, on = over(encoder, {"mood": given[:6], "topic": given[6:]})
    taskloom.merge_files(folder, dict(on.experts), "average", tmp_path / "merged")
    fitted = fit_module(kind, on, tmp_path / "merged", steps=5, rank=3, learning_rate=0.05)
    where = fitted.save(tmp_path / "module")

    model = AutoModel.from_pretrained(tmp_path / "merged").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "merged")(given, return_tensors="pt", padding=True)
    opened = open_module(where, model)
    with torch.no_grad():
        hidden = opened(**batch, task="topic").last_hidden_state
        mask = batch["attention_mask"][:, :, None].float()
        pooled = opened.features((hidden * mask).sum(1) / mask.sum(1), "topic")
        plain = model(**batch).last_hidden_state
    changed = not torch.allclose(hidden, plain, atol=1e-5)
    assert changed == (kind == "surgery_v2")
    # the same from the fitted numbers and the house's own encoder
    merged = Encoder.load(tmp_path / "merged")
    with torch.no_grad(), open_module(fitted, merged.module).on("topic"):
        wanted = open_module(fitted, merged.module).features(merged.pooled(merged.batch(given)), "topic")
    assert torch.allclose(pooled, wanted, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(pooled, merged.pooled(merged.batch(given)), atol=1e-4)
    assert heads["topic"].logits(pooled.numpy()).shape == (12, 3)


def test_a_vit(tmp_path):
    init_encoder({"kind": "vit"}, tmp_path / "base", seed=0)
    encoder = Encoder.load(tmp_path / "base")
    pictures = (torch.rand(12, 8, 8, generator=torch.Generator().manual_seed(0)) * 16).numpy()
    _, on = over(encoder, {"mood": pictures[:6], "topic": pictures[6:]})
    fitted = fit_module("surgery_v2", on, averaged(on), steps=25, rank=3, learning_rate=0.02)
    for task in on.tasks:
        before, after = map(float, fitted.said[f"distance {task}"].split(" -> "))
        assert after < before
    assert len(fitted.layout["blocks"]["mood"]) == encoder.module.config.num_hidden_layers


def test_a_module_of_a_model_inside_another(tmp_path):
    """Fitted on BertModel, opened on BertForSequenceClassification."""
    from transformers import BertForSequenceClassification

    folder = tiny_bert(tmp_path / "base", pooler=True)
    encoder = Encoder.load(folder)
    given = texts(8)[0]
    _, on = over(encoder, {"mood": given})
    fitted = fit_module("surgery_v2", on, averaged(on), steps=3, rank=2, learning_rate=0.1)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    opened = open_module(fitted, model)
    batch = encoder.batch(given)
    with torch.no_grad():
        inner = open_module(fitted, model.bert)(**batch).last_hidden_state
        outer = opened(**batch, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(inner, outer)
    other = fit_module("surgery_v2", problem(), averaged(problem()), steps=0)
    with pytest.raises(PlanError, match=r"fitted at 'blocks\.0', which BertForSequenceClassification"):
        open_module(other, model)
