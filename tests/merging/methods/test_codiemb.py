"""CoDiEmb's delta-guided fusion: card 18 (its formula is assumed)."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close, merged


def halves(values):
    tensor = torch.tensor(values)
    return {"a": tensor[:3], "b": tensor[3:]}


def test_card_18():
    found = merge(halves(BASE), [halves(THETA1), halves(THETA2)], "codiemb")
    wanted = [0.884701, -0.250278, 0.072201, 0.25, 0.434733, -0.538717]
    assert torch.cat([found["a"], found["b"]]).numpy() == close(wanted)


def test_card_18_power_2_over_the_model_is_metagpt():
    assert merged("codiemb", power=2, scope="model").tolist() == merged("metagpt").tolist()


def test_power_0_is_the_average():
    assert merged("codiemb", power=0) == close((np.array(THETA1) + THETA2) / 2)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_per_element(power):
    taus = np.array([TAU1, TAU2])
    sizes = abs(taus) ** power
    wanted = np.array(BASE) + (sizes / sizes.sum(0) * taus).sum(0)
    assert merged("codiemb", power=power, scope="element") == close(wanted)


def test_one_expert_is_returned():
    assert merged("codiemb", experts=(THETA1,)) == close(THETA1)


@pytest.mark.parametrize("scope", ["tensor", "model", "element"])
def test_task_vectors_of_zero_give_the_base(scope):
    assert merged("codiemb", experts=(BASE, BASE), scope=scope) == close(BASE)


@pytest.mark.parametrize("power", [-1, float("inf"), float("nan"), "much"])
def test_powers_that_cannot_be(power):
    with pytest.raises(PlanError, match=r"^codiemb: option 'power'"):
        merged("codiemb", power=power)


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("codiemb", base=None)
