"""beside: what is merged next to what it was merged from."""

import pytest
import torch

from taskloom import merge
from taskloom.algebra import Step, chain, elect, keep, scale, total
from taskloom.algebra.beside import beside, split
from taskloom.errors import PlanError
from taskloom.merging.recipe import Recipe

from .stacks import make, measured


def test_the_experts_rows_stay():
    stack = make([[1.0, 2.0], [3.0, -4.0]])
    for step in beside(total(), scale(2)).steps:
        stack = step.apply(stack, None)
    assert stack.values.tolist() == [[1, 2], [3, -4], [8, -4]]
    rows, merged = split(stack)
    assert rows.tolist() == [[1, 2], [3, -4]]
    assert merged.tolist() == [[8, -4]]


def test_measures_see_what_is_beside_only():
    first, step = beside(scale(10), keep(0.5)).steps
    stack = first.apply(make([[1.0, 2.0, 3.0, 4.0]]), None)
    rows, others = split(stack)
    stack = stack.with_values(torch.cat([rows, others.flip(1)]))
    found = step.apply(stack, measured(step, [stack])).values
    assert found.tolist() == [[1, 2, 3, 4], [40, 30, 0, 0]]


def last(stack, _):
    return stack.with_values(split(stack)[1])


@pytest.mark.parametrize("scope", ["row", "tensor", "model"])
def test_a_chain_beside_gives_what_it_gives_alone(scope):
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.zeros(6, 7), "b": torch.zeros(7)}
    experts = [{n: torch.randn(t.shape, generator=generator) for n, t in base.items()} for _ in range(3)]
    alone = chain(keep(0.3, scope), elect("majority"), total())
    found = merge(base, experts, Recipe("beside", {}, chain(beside(alone), Step("last", last))))
    wanted = merge(base, experts, Recipe("alone", {}, alone))
    assert all(torch.equal(found[name], wanted[name]) for name in base)


def test_reads_are_those_of_the_chain():
    assert beside(keep(0.2), elect("majority"), total()).reads == 4
    assert beside(total()).reads == 1


def test_a_chain_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="one step or more"):
        beside()


def test_nothing_beside_is_refused():
    with pytest.raises(PlanError, match="needs what was merged beside the rows of its 2 experts"):
        split(make([[1.0], [2.0]]))
