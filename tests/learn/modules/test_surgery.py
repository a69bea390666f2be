"""Representation Surgery: the card's numbers, the rule in plain torch, and what it is good for."""

import pytest
import torch
from torch import nn

import taskloom
from taskloom.errors import CheckpointError, DataError, NumericalError, PlanError
from taskloom.learn.modules.kit.low_rank_map import down_and_up, subtract
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.kit.sources import keyed
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.memory import MemoryCheckpoint

from .small import Deep, averaged, inputs, problem, runs, state


def test_card_6():
    z = torch.tensor([1.0, -2.0, 0.5, 0.0])
    down = torch.tensor([[0.5, 0.0, 1.0, 0.0], [0.0, 0.25, 0.0, -1.0]])
    up = torch.tensor([[0.1, 0.0], [0.0, 0.2], [0.3, -0.1], [0.0, 0.4]])
    found = subtract(z, down, up)
    assert found.tolist() == pytest.approx([0.9, -2.0, 0.2, 0.0])
    target = torch.tensor([0.8, -2.0, 0.25, 0.1])
    assert float((z - target).abs().mean()) == pytest.approx(0.1375)
    assert float((found - target).abs().mean()) == pytest.approx(0.0625)
    assert torch.equal(subtract(z, down, torch.zeros(4, 2)), z)
    assert sum(t.numel() for t in down_and_up(512, 16, keyed(0))) == 16384


def test_the_map_starts_as_kaiming_uniform():
    down, up = down_and_up(64, 16, keyed(0, "any"))
    wanted = torch.empty(16, 64)
    nn.init.kaiming_uniform_(wanted, a=5**0.5)
    assert float(down.abs().max()) <= 1 / 8
    assert float(down.std()) == pytest.approx(float(wanted.std()), rel=0.1)
    assert not up.any()


def feature(net, weights, x):
    """The mean over tokens after the blocks, in plain torch."""
    for k in range(2):
        first = torch.tanh(x @ weights[f"blocks.{k}.fc1.weight"].T + weights[f"blocks.{k}.fc1.bias"])
        x = x + first @ weights[f"blocks.{k}.fc2.weight"].T + weights[f"blocks.{k}.fc2.bias"]
    return x.mean(1)


def test_nothing_is_changed_at_first(tmp_path):
    on = problem()
    merged = averaged(on)
    fitted = fit_module("surgery", on, merged, steps=0, rank=3)
    assert fitted.trace == ()
    net = Deep()
    net.load_state_dict(merged)
    opened = open_module(fitted, net)
    x = inputs(5)
    assert torch.equal(opened(x, task="mood"), runs(net, merged, x))


def test_the_rule_in_plain_torch():
    """Adam on the L1 distance of corrected features, restated without this library."""
    on = problem(n=8)  # one batch per task
    merged = averaged(on)
    fitted = fit_module("surgery", on, merged, steps=3, rank=2, learning_rate=0.05)
    for task in on.tasks:
        ((x, _),) = on.batches[task]
        expert = {n: on.experts[on.own[task]].read(n) for n in merged}
        z, wanted = feature(Deep(), merged, x), feature(Deep(), expert, x)
        bound = 1 / 6**0.5
        down = (torch.rand(2, 6, generator=keyed(0, "surgery", task)) * 2 - 1) * bound
        down, up = nn.Parameter(down), nn.Parameter(torch.zeros(6, 2))
        adam = torch.optim.Adam([down, up], lr=0.05)
        for step in fitted.trace:
            loss = (z - torch.relu(z @ down.T) @ up.T - wanted).abs().mean()
            assert step.values[f"loss {task}"] == pytest.approx(float(loss.detach()), rel=1e-5)
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert torch.allclose(fitted.tensors[f"{task}/down"], down.detach(), atol=1e-5)
        assert torch.allclose(fitted.tensors[f"{task}/up"], up.detach(), atol=1e-5)


def test_the_distance_to_the_expert_shrinks_and_is_told():
    on = problem()
    fitted = fit_module("surgery", on, averaged(on), steps=120, learning_rate=0.02, rank=4)
    for task in on.tasks:
        before, after = map(float, fitted.said[f"distance {task}"].split(" -> "))
        assert after < 0.7 * before
    assert fitted.trace[-1].loss < fitted.trace[0].loss
    assert fitted.bytes_stored == 2 * 2 * 4 * 6 * 4  # tasks, maps, rank, width, bytes of a float
    assert fitted.said["bytes"] == str(fitted.bytes_stored)
    assert fitted.said["labels"] == "not used"
    assert fitted.options == {"rank": 4, "steps": 120, "learning_rate": 0.02}


def trained(tasks, seed=0):
    """Train a base on all tasks a little and an expert on each, so that merging costs accuracy."""
    torch.manual_seed(seed)
    net = Deep(width=6, inner=16, classes=4)
    base = state(net)
    experts = {}
    for task, (x, y) in tasks.items():
        net.load_state_dict(base)
        net.classifier.requires_grad_(False)
        adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.02)
        for _ in range(60):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            adam.step()
        experts[f"{task} expert"] = state(net)
    return net, base, experts


def unlabelled(x):
    return Examples.of((x[i : i + 20], None) for i in range(0, len(x), 20))


def accuracy(model, x, y, **more):
    with torch.no_grad():
        return float((model(x, **more).argmax(1) == y).float().mean())


def test_every_merge_it_is_added_to_is_raised():
    """Without labels, on inputs the accuracy is not measured on."""
    data = {}
    for k, task in enumerate(("mood", "topic", "intent")):
        x = inputs(320, seed=k)
        direction = torch.randn(6, 4, generator=torch.Generator().manual_seed(50 + k))
        data[task] = (x, (x.mean(1) @ direction).argmax(1))
    fit = {task: (x[:200], y[:200]) for task, (x, y) in data.items()}
    net, base, experts = trained(fit)
    on = Problem(
        MemoryCheckpoint(base),
        {name: MemoryCheckpoint(weights, name) for name, weights in experts.items()},
        {task: Probe.of_module(net) for task in data},
        {task: unlabelled(x) for task, (x, _) in fit.items()},
        own={task: f"{task} expert" for task in data},
    )
    recipes = {
        "average": {},
        "task_arithmetic": {"scale": 0.4},
        "ties": {},
        "dare_ties": {},
        "slerp": {},
    }
    del recipes["slerp"], recipes["dare_ties"]
    for recipe, options in recipes.items():
        merged = taskloom.merge(base, experts, recipe, **options)
        fitted = fit_module("surgery", on, merged, steps=120, learning_rate=0.02, rank=4)
        net.load_state_dict(merged)
        opened = open_module(fitted, net)
        before, after = [], []
        for task, (x, y) in data.items():
            before.append(accuracy(net, x[200:], y[200:]))
            after.append(accuracy(opened, x[200:], y[200:], task=task))
        assert sum(after) > sum(before), recipe


def test_seeds_and_equal_calls():
    on = problem()
    one, two = (fit_module("surgery", on, averaged(on), steps=4, rank=2) for _ in range(2))
    assert one.digest() == two.digest()
    other = fit_module("surgery", problem(seed=1), averaged(on), steps=4, rank=2)
    assert other.digest() != one.digest()


def test_bad_input():
    on = problem()
    merged = averaged(on)
    with pytest.raises(PlanError, match=r"'topic' has no expert of its own.*'own'"):
        fit_module("surgery", problem(own={"mood": "mood expert"}), merged)
    with pytest.raises(
        CheckpointError, match=r"'classifier.weight': expected shape \[3, 6\], found none"
    ):
        fit_module("surgery", on, {n: t for n, t in merged.items() if n != "classifier.weight"})
    with pytest.raises(NumericalError, match="computes features with NaN"):
        fit_module("surgery", on, {n: t * torch.nan for n, t in merged.items()})
    with pytest.raises(PlanError, match="option 'rank' is 0"):
        fit_module("surgery", on, merged, rank=0)
    with pytest.raises(DataError, match="no examples"):
        problem(batches={"mood": Examples.of([])})
    fitted = fit_module("surgery", on, merged, steps=1)
    wide = open_module(fitted, Deep(width=7))
    with pytest.raises(PlanError, match="features of width 6, and this model's have 7"):
        wide(inputs(2, width=7), task="mood")
    with pytest.raises(PlanError, match="'mod' is none of them: did you mean 'mood'"):
        open_module(fitted, Deep())(inputs(2), task="mod")
    with pytest.raises(PlanError, match="fitted at 'classifier', which Linear does not have"):
        open_module(fitted, nn.Linear(2, 2))
