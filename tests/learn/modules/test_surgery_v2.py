"""SurgeryV2: the rule in plain torch, padding, and how it compares with a correction at the end."""

import pytest
import torch
from torch import nn

from taskloom.errors import NumericalError, PlanError
from taskloom.learn.modules.kit.hooks import Edit, attached, token_mean
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.kit.sources import keyed

from .small import Deep, averaged, inputs, problem, runs


def blocks(weights, x, maps=None):
    """Return token means after both blocks and the final feature, corrected if maps are given."""
    seen = []
    for k in range(2):
        first = torch.tanh(x @ weights[f"blocks.{k}.fc1.weight"].T + weights[f"blocks.{k}.fc1.bias"])
        x = x + first @ weights[f"blocks.{k}.fc2.weight"].T + weights[f"blocks.{k}.fc2.bias"]
        if maps:
            down, up = maps[f"blocks.{k}"]
            x = x - torch.relu(x @ down.T) @ up.T
        seen.append(x.mean(1))
    z = x.mean(1)
    if maps:
        down, up = maps["final"]
        z = z - torch.relu(z @ down.T) @ up.T
    return [*seen, z]


def test_the_rule_in_plain_torch():
    on = problem(n=8)
    merged = averaged(on)
    fitted = fit_module("surgery_v2", on, merged, steps=3, rank=2, learning_rate=0.05)
    places = ("blocks.0", "blocks.1", "final")
    for task in on.tasks:
        ((x, _),) = on.batches[task]
        expert = {n: on.experts[on.own[task]].read(n) for n in merged}
        maps = {}
        for place in places:
            generator = keyed(0, "surgery", task, place)
            down = (torch.rand(2, 6, generator=generator) * 2 - 1) / 6**0.5
            maps[place] = (nn.Parameter(down), nn.Parameter(torch.zeros(6, 2)))
        adam = torch.optim.Adam([p for pair in maps.values() for p in pair], lr=0.05)
        for step in fitted.trace:
            pairs = zip(blocks(merged, x, maps), blocks(expert, x), strict=True)
            loss = sum((one - other).abs().mean() for one, other in pairs)
            assert step.values[f"loss {task}"] == pytest.approx(float(loss.detach()), rel=1e-5)
            adam.zero_grad()
            loss.backward()
            adam.step()
        for place, (down, up) in maps.items():
            assert torch.allclose(fitted.tensors[f"{task}/{place}/down"], down.detach(), atol=1e-4)
            assert torch.allclose(fitted.tensors[f"{task}/{place}/up"], up.detach(), atol=1e-4)


def test_what_is_opened_is_what_was_fitted():
    on = problem()
    merged = averaged(on)
    fitted = fit_module("surgery_v2", on, merged, steps=5, rank=2, learning_rate=0.05)
    net, x = Deep(), inputs(5)
    net.load_state_dict(merged)
    maps = {
        place: [fitted.tensors[f"topic/{place}/{side}"] for side in ("down", "up")]
        for place in ("blocks.0", "blocks.1", "final")
    }
    wanted = blocks(merged, x, maps)[-1] @ merged["classifier.weight"].T + merged["classifier.bias"]
    with torch.no_grad():
        assert torch.allclose(open_module(fitted, net)(x, task="topic"), wanted, atol=1e-5)
        assert torch.equal(net(x), runs(net, merged, x))  # the model itself is as it was


def test_nothing_is_changed_at_first():
    on = problem()
    merged = averaged(on)
    net, x = Deep(), inputs(5)
    net.load_state_dict(merged)
    opened = open_module(fit_module("surgery_v2", on, merged, steps=0), net)
    assert torch.equal(opened(x, task="mood"), runs(net, merged, x))


def test_it_comes_nearer_than_a_correction_at_the_end():
    on = problem(n=48)
    merged = averaged(on)
    net = Deep()
    options = {"steps": 100, "learning_rate": 0.02, "rank": 4}
    near = {}
    for kind in ("surgery", "surgery_v2"):
        net.load_state_dict(merged)
        opened = open_module(fit_module(kind, on, merged, **options), net)
        x = inputs(64, seed=99)
        gaps = []
        for task in on.tasks:
            expert = {n: on.experts[on.own[task]].read(n) for n in merged}
            with torch.no_grad():
                gaps.append(float((opened(x, task=task) - runs(net, expert, x)).abs().mean()))
        near[kind] = sum(gaps)
    plain = sum(
        float((runs(net, merged, x) - runs(net, {n: e.read(n) for n in merged}, x)).abs().mean())
        for e in on.experts.values()
    )
    assert near["surgery_v2"] < near["surgery"] < plain


def test_padding_does_not_count():
    """A token mean, and so the fit, is the same however much a batch is padded."""
    hidden = torch.randn(2, 3, 4)
    padded = torch.cat([hidden, torch.full((2, 2, 4), 99.0)], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    assert torch.allclose(token_mean(padded, mask), token_mean(hidden, None))
    on = problem(n=8)
    more = {
        task: type(examples).of(
            (
                {
                    "x": torch.cat([x, torch.full((8, 2, 6), 3.0)], 1),
                    "attention_mask": torch.tensor([[1] * 4 + [0] * 2] * 8),
                },
                None,
            )
            for x, _ in examples
        )
        for task, examples in on.batches.items()
    }
    merged = averaged(on)
    plain = fit_module("surgery_v2", on, merged, steps=2, rank=2)
    filled = fit_module("surgery_v2", problem(n=8, batches=more), merged, steps=2, rank=2)
    for name, tensor in plain.tensors.items():
        assert torch.allclose(tensor, filled.tensors[name], atol=1e-5)


def test_hooks_go_when_the_block_ends():
    net = Deep()
    with pytest.raises(RuntimeError), attached(net, [Edit("blocks.0", lambda *_: None)]):
        raise RuntimeError
    with pytest.raises(AttributeError), attached(net, [Edit("blocks.0", max), Edit("nowhere", max)]):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_bad_input():
    on = problem()
    merged = averaged(on)
    with pytest.raises(PlanError, match="option 'blocks' is 'layer', but no module of Deep"):
        fit_module("surgery_v2", on, merged, blocks="layer")
    with pytest.raises(PlanError, match=r"option 'blocks' is '\(', no regular expression"):
        fit_module("surgery_v2", on, merged, blocks="(")
    broken = {n: t * torch.nan for n, t in merged.items()}
    with pytest.raises(NumericalError, match=r"the loss of task 'mood' is nan at step 1") as stopped:
        fit_module("surgery_v2", on, broken)
    assert stopped.value.fitted.trace == ()
    assert stopped.value.fitted.said["labels"] == "not used"
