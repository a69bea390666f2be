"""AdaMerging: the numbers of the card, the ++ variant, collapse."""

from dataclasses import replace

import pytest
import torch

import taskloom
from taskloom.errors import DataError
from taskloom.learn.fits.adamerging import adamerging
from taskloom.learn.probe import Examples
from taskloom.merging.api import merge
from taskloom.registry import get

from ..coefficients.small import net, problem
from ..toy import BASE, INPUTS, TAUS, toy


def entropies(values):
    """Sum over the tasks of the mean entropy at coefficients of one and two, restated."""
    weight = BASE + values["one"] * TAUS["one"] + values["two"] * TAUS["two"]
    total = 0.0
    for inputs in INPUTS.values():
        logs = torch.log_softmax(inputs @ weight.T, 1)
        total += float(-(logs.exp() * logs).sum(1).mean())
    return total


def test_the_first_step_moves_every_coefficient_by_the_rate():
    found = adamerging(toy(labelled=False), per="task", steps=1, passes=1)
    assert found.method == "coefficients"
    assert found.options["values"] == pytest.approx({"one": 0.301, "two": 0.301}, abs=1e-9)
    assert found.trace[0].loss == pytest.approx(1.324313, abs=1e-6)
    gradient = torch.tensor([-0.270564, -0.14159]).norm()
    assert found.trace[0].values["gradient"] == pytest.approx(float(gradient), abs=1e-6)


def test_five_hundred_steps_end_where_the_card_says():
    found = adamerging(toy(labelled=False), per="task", passes=1)
    values = found.options["values"]
    assert [round(each, 4) for each in values.values()] == [0.8469, 0.8898]
    assert round(entropies(values), 4) == 0.9516
    assert len(found.trace) == 500
    assert found.trace[0].values["mean one"] == 0.3
    assert "collapse" not in found.said


def test_every_tensor_has_a_coefficient_and_starts_with_the_gradient_of_the_card():
    on = toy(rows=True, labelled=False)
    one_step = adamerging(on, steps=1, passes=1, rate=0.1)
    assert list(one_step.options["values"]["one"]) == ["row0", "row1"]
    # equal gradients of both rows: [-0.135282, -0.070795] twice
    gradient = torch.tensor([0.135282, 0.135282, 0.070795, 0.070795]).norm()
    assert one_step.trace[0].values["gradient"] == pytest.approx(float(gradient), abs=1e-6)


def test_clamping_stops_the_gradient_outside():
    on = toy(labelled=False)
    clamped = adamerging(on, per="task", start=1.1, steps=3, passes=1)
    assert clamped.options["values"] == {"one": 1.0, "two": 1.0}
    assert clamped.trace[-1].values["gradient"] == 0
    free = adamerging(on, per="task", start=1.1, steps=3, passes=1, shape="free")
    assert min(free.options["values"].values()) > 1.1


def test_the_recipe_is_applied_like_any_other():
    found = adamerging(toy(labelled=False), per="task", steps=2, passes=1)
    base, experts = toy().base, toy().experts
    merged = taskloom.merge(base, experts, found.method, **found.options)["weight"]
    values = found.options["values"]
    wanted = BASE + values["one"] * TAUS["one"] + values["two"] * TAUS["two"]
    torch.testing.assert_close(merged, wanted)


def test_plus_plus_fits_what_ties_leaves_and_says_so_in_the_recipe():
    on = problem(net(torch.float32))
    found = adamerging(on, trim=0.2, steps=2, passes=1, threads=1)
    assert found.options["trim"] == 0.2
    start = merge(on.base, on.experts, "coefficients", values=0.3, trim=0.2)
    total = 0.0
    for task in on.tasks:
        inputs, _ = next(iter(on.batches[task]))
        weights = {**start, "out.weight": start["table.weight"]}
        logs = torch.log_softmax(on.probes[task].logits(inputs, weights), 1)
        total += float(-(logs.exp() * logs).sum(1).mean())
    assert found.trace[0].loss == pytest.approx(total, rel=1e-5)


def test_one_class_for_everything_is_reported():
    """Entropy falls as well when a model predicts one class whatever it sees."""
    inputs = torch.tensor([[0.5, 0.1]], dtype=torch.float64).repeat(8, 1)
    on = replace(toy(labelled=False), batches={t: Examples.of([(inputs, None)]) for t in INPUTS})
    said = adamerging(on, per="task", steps=3).said
    assert "task 'first': all 48 predictions of the last 3 steps are class 0 of 2" in said["collapse"]


def test_no_labels_are_used_and_test_inputs_only_if_asked_for():
    said = adamerging(toy(), per="task", steps=1).said
    assert (said["labels"], said["transductive"]) == ("not used", "no")
    with pytest.raises(DataError, match="test split"):
        toy(split="test")
    seen = adamerging(toy(split="test", transductive=True), per="task", steps=1).said
    assert seen["transductive"] == "yes: inputs of the test split of first, second, no labels"


def test_options_are_the_signature():
    schema = get("fit", "adamerging")
    assert schema.validate({"trim": 0.2}) == {"trim": 0.2}
    with pytest.raises(taskloom.TaskloomError, match="trim"):
        schema.validate({"trim": 1.5})
