"""Weights of tasks in fits by gradient: what is minimised, what stays as it was, what is refused."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from taskloom.errors import PlanError
from taskloom.learn.coefficients.descend import Descent, descend
from taskloom.learn.fits.adamerging import adamerging
from taskloom.learn.fits.atlas import atlas
from taskloom.learn.fits.divmerge import divmerge
from taskloom.learn.fits.self_positioning import self_positioning
from taskloom.learn.probe import Examples

from ..coefficients.small import net, problem
from ..toy import BASE, INPUTS, LABELS, TAUS, toy

FITS = {
    "adamerging": adamerging,
    "adamerging_plus": lambda on, **more: adamerging(on, trim=0.2, **more),
    "atlas": atlas,
    "divmerge": divmerge,
    "self_positioning": self_positioning,
}
fits = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)


@fits
def test_equal_preferences_change_no_bit(fit):
    on = problem(net(torch.float32))
    plain = fit(on, steps=3, threads=1)
    for weight in (1, 0.1, 7.3):
        same = fit(on, steps=3, threads=1, prefer=dict.fromkeys(on.tasks, weight))
        assert same.options == plain.options
        assert [step.loss for step in same.trace] == [step.loss for step in plain.trace]
        assert "preference" not in same.said


@fits
def test_the_loss_is_that_of_the_tasks_by_their_weights(fit):
    on = toy()
    plain = fit(on, per="task", steps=1).trace[0].values
    found = fit(on, per="task", steps=1, prefer={"first": 3, "second": 1})
    # as many weights as tasks in sum: 3 to 1 of two tasks are 1.5 and 0.5
    wanted = 1.5 * plain["loss first"] + 0.5 * plain["loss second"]
    assert found.trace[0].loss == pytest.approx(wanted, rel=1e-12)
    assert found.said["preference"] == "first 0.75, second 0.25"


def test_the_gradient_is_that_of_the_weighted_loss():
    found = self_positioning(toy(), steps=1, prefer={"first": 3, "second": 1})
    weight = (BASE + 0.5 * TAUS["one"] + 0.5 * TAUS["two"]).requires_grad_()
    first, second = (cross_entropy(x @ weight.T, LABELS) for x in INPUTS.values())
    (1.5 * first + 0.5 * second).backward()
    moved = {name: 0.5 - 0.1 * float((weight.grad * tau).sum()) for name, tau in TAUS.items()}
    assert found.options["values"] == pytest.approx(moved, rel=1e-9)


@fits
def test_what_is_not_named_has_no_weight(fit):
    on, alone = toy(), toy(tasks=("first",))
    only = fit(on, per="task", steps=1, rate=1e-3, prefer={"first": 5})
    first = only.trace[0]
    assert first.loss == pytest.approx(2 * first.values["loss first"], rel=1e-12)
    assert first.values["gradient"] == pytest.approx(
        2 * fit(alone, per="task", steps=1, rate=1e-3).trace[0].values["gradient"], rel=1e-9
    )


def test_a_check_on_validation_weighs_the_tasks_likewise():
    """The first task's validation labels say that the start is right, the second's that it is not."""
    on = toy()

    def labelled(task, right):
        logits = INPUTS[task] @ BASE.T
        labels = logits.argmax(-1) if right else 1 - logits.argmax(-1)
        return Examples.of([(INPUTS[task], labels)])

    on = replace(on, validation={"first": labelled("first", True), "second": labelled("second", False)})
    still = {"per": "task", "start": 0.0, "rate": 1e-12, "steps": 1, "check_every": 1}
    for prefer, value in ((None, 0.5), ({"first": 3, "second": 1}, 0.75), ({"second": 1}, 0.0)):
        assert atlas(on, prefer=prefer, **still).trace[0].values["validation"] == pytest.approx(value)
    without = replace(on, validation={"first": on.validation["first"]})
    with pytest.raises(PlanError, match="no task with a weight has validation examples"):
        atlas(without, prefer={"second": 1}, **still)


def test_a_preference_goes_with_what_is_forgotten():
    found = atlas(toy(), per="task", forget=("first",), steps=1, prefer={"first": 1, "second": 3})
    values = found.trace[0].values
    wanted = 1.5 * values["loss second"] - 0.5 * values["loss first"]
    assert found.trace[0].loss == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(PlanError, match="gives no weight to a task that is kept"):
        atlas(toy(), forget=("first",), prefer={"first": 1})


@fits
@pytest.mark.parametrize(
    ("prefer", "told"),
    [
        ({"frist": 1}, "the preference names 'frist': did you mean 'first'"),
        ({"first": -1}, "the preference for 'first' is -1, where a weight >= 0 is needed"),
        ({"first": 0}, "gives no task any weight"),
    ],
)
def test_what_is_no_preference_is_refused(fit, prefer, told):
    with pytest.raises(PlanError, match=told):
        fit(toy(), prefer=prefer)


@pytest.mark.parametrize("name", ["adamerging", "divmerge", "self_positioning"])
def test_shares_take_no_start(name):
    with pytest.raises(PlanError, match=f"{name}: the start is 0.3, but shares start equal, 1 / 2 each"):
        FITS[name](toy(), shape="shares", start=0.3)
    found = FITS[name](toy(), per="task", shape="shares", steps=1)
    assert found.trace[0].values["mean one"] == pytest.approx(0.5)
    free = FITS[name](toy(), per="task", shape="free", start=0.2, steps=1)
    assert free.trace[0].values["mean one"] == pytest.approx(0.2)


def test_a_task_without_weight_is_not_run_backward():
    """Its gradient may be anything, as a loss may be finite where its gradient is not."""
    on = toy()
    probe = on.probes["second"]

    def run(weights, inputs):
        logits = probe.run(weights, inputs)
        return logits + (logits - logits.detach()).abs().sqrt()  # 0, with an infinite slope

    on = replace(on, probes={**on.probes, "second": replace(probe, run=run)})
    how = Descent("cross_entropy", per="task", steps=1, weights={"first": 2.0, "second": 0.0})
    assert descend(on, how, name="toy").trace[0].values["gradient"] > 0
