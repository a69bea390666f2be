"""Model Tinting: the card's numbers, the rule in plain torch, the recipe and heads that are kept."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import taskloom
from taskloom.errors import PlanError
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.kit.sources import batch_at
from taskloom.learn.modules.tinting import _loss
from taskloom.learn.probe import Examples

from .small import Deep, averaged, inputs, problem, runs


def test_card_5():
    expert = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.7, 0.3]])
    logits = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]).log()
    sure, labels = expert.max(1)
    assert labels.tolist() == [0, 1, 0, 0]
    each = nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
    assert each == pytest.approx([0.510826, 1.609438, 1.203973, 0.916291], abs=1e-6)
    assert float(_loss(logits, (labels, sure), False)) == pytest.approx(1.060132, abs=1e-6)
    assert float(_loss(logits, (labels, sure), True)) == pytest.approx(0.713558, abs=1e-6)
    assert _loss(logits[1:2], (labels[1:2], sure[1:2]), True) is None


def states(on):
    experts = {n: {k: c.read(k) for k in c.tensors} for n, c in on.experts.items()}
    return {k: on.base.read(k) for k in on.base.tensors}, experts


def mixed(base, experts, rows):
    """Return base + sum of coefficients times task vectors."""
    found = {}
    for name, tensor in base.items():
        pairs = zip(rows[name], experts.values(), strict=True)
        found[name] = tensor + sum(c * (expert[name] - tensor) for c, expert in pairs)
    return found


@pytest.mark.parametrize("confident", [False, True])
def test_the_rule_in_plain_torch(confident):
    """All task vectors in one graph, a step of Adam after each task; restated without streaming."""
    on = problem(n=16)
    base, experts = states(on)
    fitted = fit_module("tinting", on, epochs=3, learning_rate=0.05, confident=confident)
    table = {n: nn.Parameter(torch.full((2,), 0.3, dtype=torch.float64)) for n in base}
    heads = {
        t: [
            nn.Parameter(experts[f"{t} expert"][f"classifier.{leaf}"].clone())
            for leaf in ("weight", "bias")
        ]
        for t in on.tasks
    }
    adam = torch.optim.Adam([*table.values(), *heads["mood"], *heads["topic"]], lr=0.05)
    for step in range(3):
        for number in np.random.default_rng([0, step]).permutation(2):
            task = on.tasks[number]
            x, _ = list(on.batches[task])[batch_at(0, task, 2, step)]
            made = mixed(base, experts, {n: row.clamp(0, 1).float() for n, row in table.items()})
            made |= {"classifier.weight": heads[task][0], "classifier.bias": heads[task][1]}
            logits = torch.func.functional_call(Deep(), made, (x,))
            sure, wanted = runs(Deep(), experts[f"{task} expert"], x).softmax(1).max(1)
            own_sure, own = logits.detach().softmax(1).max(1)
            kept = (own == wanted) | (sure >= own_sure) if confident else torch.ones(len(x), dtype=bool)
            loss = nn.functional.cross_entropy(logits[kept], wanted[kept])
            found = fitted.trace[step].values[f"loss {task}"]
            assert found == pytest.approx(float(loss.detach()), rel=1e-4)
            adam.zero_grad()
            loss.backward()
            adam.step()
    groups = fitted.layout["groups"]
    for name, row in table.items():
        if name.startswith("blocks"):  # the model's own head takes no part
            found = fitted.tensors["coefficients"][:, groups.index(name), 0]
            assert torch.allclose(found, row.detach().clamp(0, 1), atol=1e-4), name
    for task, (weight, bias) in heads.items():
        assert torch.allclose(fitted.tensors[f"head/{task}/weight"], weight.detach(), atol=1e-4)
        assert torch.allclose(fitted.tensors[f"head/{task}/bias"], bias.detach(), atol=1e-4)


def test_the_recipe_and_the_heads_are_what_was_trained(tmp_path):
    on = problem(n=240, size=48)
    base, experts = states(on)
    fitted = fit_module("tinting", on, epochs=60, learning_rate=0.02)
    first, last = fitted.trace[0].loss, sum(s.loss for s in fitted.trace[-5:]) / 5
    assert last < 0.8 * first
    recipe = fitted.layout["recipe"]
    merged = taskloom.merge(base, experts, recipe["method"], **recipe["options"])
    table, groups = fitted.tensors["coefficients"], fitted.layout["groups"]
    rows = {name: table[:, groups.index(name), 0].float() for name in base}
    wanted = mixed(base, experts, rows)
    for name, tensor in merged.items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6)
    net = Deep()
    net.load_state_dict(merged)
    opened = open_module(fitted.save(tmp_path / "tint"), net)
    agree = {"plain": 0.0, "tinted": 0.0}
    start = taskloom.merge(base, experts, "task_arithmetic", scale=0.3)
    for task in on.tasks:
        x = inputs(64, seed=77)
        wanted = runs(net, experts[f"{task} expert"], x).argmax(1)
        with torch.no_grad():
            agree["tinted"] += float((opened(x, task=task).argmax(1) == wanted).float().mean())
        agree["plain"] += float((runs(net, start, x).argmax(1) == wanted).float().mean())
    assert agree["tinted"] > agree["plain"]
    heads = 2 * (3 * 6 + 3) * 4
    assert fitted.bytes_stored == heads + table.numel() * 8
    z = torch.randn(2, 6)
    weight = fitted.tensors["head/mood/weight"]
    wanted = z @ weight.T + fitted.tensors["head/mood/bias"]
    assert torch.allclose(opened.logits(z, "mood"), wanted, atol=1e-6)


def test_task_arithmetic_and_own_heads_at_first():
    on = problem()
    fitted = fit_module("tinting", on, epochs=0)
    assert torch.equal(fitted.tensors["coefficients"].unique(), torch.tensor([0.3], dtype=torch.float64))
    assert torch.equal(fitted.tensors["head/mood/weight"], Deep().classifier.weight)
    assert fitted.said["mean coefficient mood expert"] == "0.3000"


def test_clamped_coefficients_stay_in_the_unit_interval():
    on = problem()
    fitted = fit_module("tinting", on, epochs=6, learning_rate=0.4)
    found = fitted.tensors["coefficients"]
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    free = fit_module("tinting", on, epochs=6, learning_rate=0.4, clamp=False).tensors["coefficients"]
    assert float(free.min()) < 0 or float(free.max()) > 1


def saying(task, answer):
    """A pool in which the task's expert says one class whatever it sees."""
    on = problem()
    base, experts = states(on)
    experts[f"{task} expert"]["classifier.bias"] = base["classifier.bias"].clone()
    experts[f"{task} expert"]["classifier.bias"][answer] += 50.0
    return problem(experts=experts)


def test_collapse_is_told_of_the_tasks_that_collapsed():
    on = saying("mood", 2)
    fitted = fit_module("tinting", on, epochs=2)
    assert fitted.said["collapsed"] == "mood"
    base, experts = states(on)
    table, groups = fitted.tensors["coefficients"], fitted.layout["groups"]
    made = mixed(base, experts, {n: table[:, groups.index(n), 0].float() for n in base})
    for task in on.tasks:  # restated: the merge under the task's head, on what it was fitted on
        made |= {
            f"classifier.{leaf}": fitted.tensors[f"head/{task}/{leaf}"] for leaf in ("weight", "bias")
        }
        classes = {int(c) for x, _ in on.batches[task] for c in runs(Deep(), made, x).argmax(1)}
        assert (len(classes) == 1) == (task == "mood")
    assert "collapsed" not in fit_module("tinting", problem(), epochs=2).said


def test_lent_memory_has_the_base_again_and_changes_no_number():
    net = Deep()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    lent = fit_module("tinting", problem(net=net, borrow=True), epochs=3)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert lent.digest() == fit_module("tinting", problem(), epochs=3).digest()


def test_bad_input():
    on = problem()
    with pytest.raises(PlanError, match="cannot sit on"):
        fit_module("tinting", on, averaged(on))
    with pytest.raises(PlanError, match="'topic' has no expert of its own"):
        fit_module("tinting", problem(own={"mood": "mood expert"}))
    broken = {t: Examples.of([(x * math.nan, None) for x, _ in e]) for t, e in on.batches.items()}
    for confident in (False, True):
        with pytest.raises(ModuleStopped, match=r"the loss of task '\w+' is nan at step 1") as stopped:
            fit_module("tinting", problem(batches=broken), confident=confident)
        assert float(stopped.value.fitted.tensors["coefficients"].max()) == 0.3
        assert "collapsed" not in stopped.value.fitted.said  # NaN predicts nothing
