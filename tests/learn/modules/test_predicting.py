"""What a fitted module predicts on a problem is what the opened model predicts."""

import pytest
import torch

import taskloom
from taskloom.errors import PlanError
from taskloom.learn.modules.kit.artefact import open_fitted
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.kit.predicting import predictions
from taskloom.learn.probe import Examples
from taskloom.models.encoder import Encoder
from taskloom.store.memory import MemoryCheckpoint
from tiny_models import texts, tiny_bert

from .adapters import skills
from .small import Deep, averaged, inputs, problem
from .test_opening import over
from .test_twin_router import parts_of, states
from .test_wemoe import FC

QUICK = {
    "surgery": {"steps": 3, "learning_rate": 0.1},
    "surgery_v2": {"steps": 3, "learning_rate": 0.1},
    "wemoe": {"steps": 3, "mlp": FC, "spread": 0.3},
    "tinting": {"epochs": 3, "learning_rate": 0.1},
}


@pytest.mark.parametrize("kind", QUICK)
def test_with_the_head_inside(kind):
    on = problem()
    fitted = fit_module(kind, on, None if kind == "tinting" else averaged(on), **QUICK[kind])
    under = averaged(on)
    if kind == "tinting":
        recipe = fitted.layout["recipe"]
        under = taskloom.merge(*states(on), recipe["method"], **recipe["options"])
    net = Deep()
    net.load_state_dict(under)
    x = inputs(16, seed=8)
    held = Examples.of([(x, torch.zeros(16, dtype=torch.long))])
    for task in on.tasks:
        ((found, labels),) = predictions(fitted, on, MemoryCheckpoint(under), task, held)
        with torch.no_grad():
            assert torch.equal(found, open_module(fitted, net)(x, task=task).argmax(1))
        assert torch.equal(labels, torch.zeros(16, dtype=torch.long))
    if kind != "wemoe":
        more = problem(tasks=("mood", "topic", "intent"))
        with pytest.raises(PlanError, match="was fitted for mood, topic, not for 'intent'"):
            next(predictions(fitted, more, MemoryCheckpoint(under), "intent", held))


def test_of_inputs_that_are_routed(tmp_path):
    on = problem()
    folder, _ = parts_of(on, tmp_path / "parts", share=1.0)
    fitted = fit_module("twin_router", on, folder, epochs=3, learning_rate=0.02)
    merged = taskloom.merge(*states(on), "twin_merging")
    net = Deep()
    net.load_state_dict(merged)
    x = inputs(12, seed=8)
    ((found, labels),) = predictions(
        fitted, on, MemoryCheckpoint(merged), "mood", Examples.of([(x, None)])
    )
    with torch.no_grad():
        assert torch.equal(found, open_module(fitted, net)(x).argmax(1))
    assert labels is None


def test_of_adapters(tmp_path):
    net, _, on = skills(tmp_path, teacher=[1.0, 0.0])
    x = inputs(16, seed=8)
    for kind in ("cat", "scalearn"):
        fitted = open_fitted(fit_module(kind, on, epochs=2).save(tmp_path / kind))
        ((found, _),) = predictions(fitted, on, on.base, "mood", Examples.of([(x, None)]))
        with torch.no_grad():
            assert torch.equal(found, open_module(fitted, net)(x).argmax(1))


@pytest.mark.parametrize("kind", ["surgery", "surgery_v2", "tinting"])
def test_with_the_head_outside(tmp_path, kind):
    folder = tiny_bert(tmp_path / "base")
    encoder = Encoder.load(folder)
    given = texts(12)[0]
    heads, on = over(encoder, {"mood": given[:6], "topic": given[6:]})
    base = MemoryCheckpoint({n: t.clone() for n, t in encoder.state_dict().items()})
    fitted = fit_module(kind, on, None if kind == "tinting" else base, **QUICK[kind])
    batch = encoder.batch(given)
    ((found, _),) = predictions(fitted, on, base, "topic", Examples.of([(batch, None)]))
    opened = open_module(fitted, encoder.module)
    with torch.no_grad(), opened.on("topic"):
        pooled = encoder.pooled(batch)
    if kind == "tinting":
        wanted = opened.logits(pooled, "topic").argmax(1)
    else:
        wanted = torch.from_numpy(heads["topic"].predict(opened.features(pooled, "topic").numpy()))
    assert torch.equal(found, wanted)
