"""DivMerge: the numbers of the card."""

from dataclasses import replace

import pytest
import torch

from taskloom.errors import DataError
from taskloom.learn.fits.divmerge import divmerge

from ..toy import BASE, INPUTS, OWN, TAUS, toy


def divergence(one, two):
    """Sum over the tasks of the mean JS divergence to the task's expert, restated."""
    total = 0.0
    for task, inputs in INPUTS.items():
        p = torch.softmax(inputs @ (BASE + TAUS[OWN[task]]).T, 1)
        q = torch.softmax(inputs @ (BASE + one * TAUS["one"] + two * TAUS["two"]).T, 1)
        m = (p + q) / 2
        total += float(((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2)
    return total


@pytest.mark.parametrize(
    ("start", "value"), [(0.0, 0.172854), (0.3, 0.084229), (0.5, 0.046925), (1.0, 0.016264)]
)
def test_the_loss_at_the_points_of_the_card(start, value):
    found = divmerge(toy(labelled=False), per="task", start=start, steps=1)
    assert round(found.trace[0].loss, 6) == value
    assert round(divergence(start, start), 6) == value


def test_it_starts_at_an_equal_share_with_the_gradient_of_the_card():
    found = divmerge(toy(labelled=False), per="task", steps=1)
    assert found.trace[0].values["mean one"] == 0.5
    gradient = torch.tensor([-0.10838, -0.035268]).norm()
    assert found.trace[0].values["gradient"] == pytest.approx(float(gradient), abs=1e-6)


def test_it_ends_at_the_minimum_beyond_one():
    found = divmerge(toy(labelled=False), per="task", steps=150, rate=0.05)
    values = found.options["values"]
    assert values == pytest.approx({"one": 1.3045, "two": 0.7871}, abs=2e-3)
    assert divergence(values["one"], values["two"]) == pytest.approx(0.00559642, abs=1e-7)


def test_other_divergences_are_other_numbers():
    losses = {
        kind: divmerge(toy(), per="task", divergence=kind, steps=1).trace[0].loss
        for kind in ("js", "kl", "rkl")
    }
    assert len({round(each, 9) for each in losses.values()}) == 3


def test_experts_are_run_once(monkeypatch):
    on = toy(labelled=False)
    runs = []
    probe = on.probes["first"]
    run = probe.run

    def counted(weights, inputs):
        runs.append(torch.is_grad_enabled())
        return run(weights, inputs)

    on = replace(on, probes=dict.fromkeys(INPUTS, replace(probe, run=counted)))
    divmerge(on, per="task", steps=4)
    assert runs.count(False) == 2  # one batch of each task, once
    assert runs.count(True) == 8


def test_a_task_without_an_expert_of_its_own_is_refused():
    with pytest.raises(DataError, match="task 'second': js_divergence compares with the expert"):
        divmerge(replace(toy(), own={"first": "one"}))
