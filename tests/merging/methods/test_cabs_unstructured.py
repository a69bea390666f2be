"""CABS without blocks."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, THETA1, THETA2, close, merged


def test_the_second_expert_chooses_among_what_is_left():
    # of the first: 0.5 and -0.375; of the second, without those: 0.375 and 0.25
    first = np.array([0.5, -0.375, 0, 0, 0, 0])
    second = np.array([0, 0, 0, 0.25, 0.375, 0])
    found = merged("cabs_unstructured", density=0.34, scale=1.0, weights=[1.0, 0.8])
    assert found == close(BASE + first + 0.8 * second)
    second, first = np.array([0, 0.4375, 0, 0, 0.375, 0]), np.array([0.5, 0, 0, 0.25, 0, 0])
    found = merged("cabs_unstructured", density=0.34, scale=1.0, experts=(THETA2, THETA1))
    assert found == close(BASE + first + second)


def test_each_tensor_has_its_density():
    base = {"a": torch.zeros(10), "b": torch.zeros(40)}
    generator = torch.Generator().manual_seed(0)
    experts = [{n: torch.randn(t.shape, generator=generator) for n, t in base.items()} for _ in range(3)]
    found = merge(base, experts, "cabs_unstructured", density=0.2)
    assert [int((t != 0).sum()) for t in found.values()] == [6, 24]


def test_everything_goes_to_the_first_at_density_1():
    assert merged("cabs_unstructured", density=1.0, scale=1.0) == close(
        np.where(np.array(THETA1) == BASE, THETA2, THETA1)
    )


def test_task_vectors_of_zero_give_the_base():
    assert merged("cabs_unstructured", experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("density", [-0.1, 1.1, "much"])
def test_densities_that_cannot_be(density):
    with pytest.raises(PlanError, match=r"^cabs_unstructured: option 'density'"):
        merged("cabs_unstructured", density=density)


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("cabs_unstructured", base=None)
