"""aTLAS: the numbers of the card, and each of its settings."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from taskloom.errors import DataError, PlanError
from taskloom.learn.fits.atlas import atlas

from ..coefficients.small import net, problem
from ..toy import BASE, INPUTS, LABELS, TAUS, toy


def test_the_gradient_at_the_base_is_the_inner_product_of_the_card():
    found = atlas(toy(), per="task", steps=1)
    assert found.trace[0].loss == pytest.approx(1.431787, abs=1e-6)
    weight = BASE.clone().requires_grad_()
    sum(cross_entropy(x @ weight.T, LABELS) for x in INPUTS.values()).backward()
    products = [float((weight.grad * tau).sum()) for tau in TAUS.values()]
    assert [round(each, 6) for each in products] == [-1.009741, -0.833418]
    norm = torch.tensor(products).norm()
    assert found.trace[0].values["gradient"] == pytest.approx(float(norm), abs=1e-6)
    assert found.options["values"] == pytest.approx({"one": 0.001, "two": 0.001}, abs=1e-8)


def test_few_shots_leave_out_the_tasks_own_expert():
    on = toy(tasks=("second",))
    found = atlas(on, setting="few_shot", per="task", start=0.4, steps=1, rate=1e-12)
    assert found.trace[0].loss == pytest.approx(0.757451, abs=1e-6)
    assert found.options["values"]["two"] == 0
    assert found.said["left out"] == "two"
    kept = atlas(on, setting="few_shot", per="task", leave_out_own=False, steps=1)
    assert kept.options["values"]["two"] != 0


def test_a_task_is_forgotten_by_climbing_its_loss():
    on = toy()
    found = atlas(on, per="task", forget=("first",), start=0.0, steps=1)
    values = found.trace[0].values
    assert found.trace[0].loss == pytest.approx(values["loss second"] - values["loss first"])
    # the card's point (-.3, 0): -CE_target + CE_control
    weight = BASE - 0.3 * TAUS["one"]
    target, control = (float(cross_entropy(x @ weight.T, LABELS)) for x in INPUTS.values())
    assert round(control - target, 6) == 0.026356
    moved = atlas(on, per="task", forget=("first",), steps=20, rate=0.05)
    assert moved.options["values"]["one"] < 0
    assert moved.trace[-1].loss < moved.trace[0].loss


def test_weight_decay_pulls_to_the_base():
    frozen = atlas(toy(), per="task", start=0.5, steps=1, rate=0.1, weight_decay=0.0)
    pulled = atlas(toy(), per="task", start=0.5, steps=1, rate=0.1, weight_decay=1.0)
    # AdamW shrinks by rate * decay before the step: 0.5 * (1 - 0.1)
    for name in TAUS:
        gap = frozen.options["values"][name] - pulled.options["values"][name]
        assert gap == pytest.approx(0.05)


def test_a_penalty_adds_its_gradient():
    plain = atlas(toy(), per="task", start=0.5, steps=1, clip=None)
    bound = atlas(toy(), per="task", start=0.5, steps=1, clip=None, penalty=0.5, norm=1.0)
    assert bound.trace[0].loss == pytest.approx(plain.trace[0].loss + 0.5 * 1.0)
    strong = atlas(toy(), per="task", start=0.5, steps=20, rate=0.05, penalty=50.0)
    assert abs(strong.options["values"]["one"]) < 0.2


def test_training_cuts_every_tensor_into_parts():
    on = problem(net(torch.float32))
    found = atlas(on, setting="training", parts=4, steps=40, rate=0.05, leave_out_own=False)
    assert found.options["per"] == "block"
    assert found.options["parts"] == 4
    assert len(found.options["values"]["e0"]["table.weight"]) == 4
    assert found.trace[-1].loss < found.trace[0].loss
    count = len(on.names) * len(found.options["values"]["e0"]) * 4
    assert found.said["coefficients"] == str(count)


def test_without_labels_it_takes_confident_guesses():
    found = atlas(toy(labelled=False), setting="unsupervised", per="task", leave_out_own=False, steps=1)
    assert found.said["objective"] == "pseudo_label"
    assert found.said["labels"] == "not used"


def test_validation_keeps_the_best_coefficients():
    on = replace(toy(), validation=toy().batches)
    # everything is right at once; a rate that high then only makes it worse, or no better
    found = atlas(on, per="task", start=0.3, steps=6, rate=0.5, check_every=2)
    assert found.said["kept"].startswith("step 2, validation accuracy 1.0000")
    assert [("validation" in each.values) for each in found.trace] == [False, True] * 3


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(DataError, match="task 'first': cross_entropy needs labels"):
        atlas(toy(labelled=False))
    with pytest.raises(PlanError, match="every expert is left out"):
        atlas(toy(), setting="few_shot")
    with pytest.raises(PlanError, match="there is no task 'third'"):
        atlas(toy(), forget=("third",))
    with pytest.raises(PlanError, match="every task is to be forgotten"):
        atlas(toy(), forget=("first", "second"))
    with pytest.raises(PlanError, match="no validation examples"):
        atlas(toy(), check_every=1)
    with pytest.raises(PlanError, match="parts of a tensor go with per='block'"):
        atlas(toy(), per="tensor", parts=2)
