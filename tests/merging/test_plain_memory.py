"""What plain steps hold, and what the plan tells of it: one stack, its base, what is read beside it."""

import pytest
import torch

from taskloom.merging import plan as plans
from taskloom.merging.battery import make_base, make_experts, make_statistics
from taskloom.merging.plain import load
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.merging.slices import Piece
from taskloom.store.pool import open_pool


def output_of(method, name="matrix", **options):
    base, chain = make_base(), Recipe.of(method, **options).chain
    experts = make_experts(base, 3)
    pool = open_pool(base, list(experts.values()), names=list(experts))
    program = program_of(pool, chain, statistics=make_statistics(chain, experts) or None)
    return next(each for each in program.outputs if each.name == name), base, experts


def test_loading_changes_no_source_and_subtracts_the_base():
    output, base, experts = output_of("task_arithmetic")
    kept = {name: weights["matrix"].clone() for name, weights in experts.items()}
    origin, stack = load(output, Piece(0, 30, (6, 5)), check=True)
    assert torch.equal(origin, base["matrix"].float())
    for row, weights in zip(stack.values, experts.values(), strict=True):
        assert torch.equal(row, weights["matrix"].float() - base["matrix"].float())
    assert all(torch.equal(experts[name]["matrix"], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_gradient_goes_through_whichever_expert_wants_one(which):
    base = {"w": torch.zeros(4)}
    experts = [{"w": torch.ones(4)} for _ in range(3)]
    experts[which]["w"].requires_grad_(True)
    (output,) = program_of(open_pool(base, experts), Recipe.of("task_arithmetic").chain).outputs
    _, stack = load(output, Piece(0, 4, (4,)), check=True)
    stack.values.sum().backward()
    assert torch.equal(experts[which]["w"].grad, torch.ones(4))


def test_statistics_are_counted_by_how_they_are_read():
    size = 30
    table, _, _ = output_of("sens_merging")
    assert plans._statistics(table, size) == 0
    slices, _, _ = output_of("fisher")
    assert plans._statistics(slices, size) == 3 * 4 * size
    whole, _, _ = output_of("regmean")
    assert plans._statistics(whole, size) == 3 * 4 * 5 * 5


def test_a_step_that_says_what_it_takes_is_counted_with_it():
    output, _, _ = output_of("fisher")
    (step,) = output.chain.steps
    told = plans._plain(output, 30)
    assert told == 4 * 30 * (3 + 1) + plans._statistics(output, 30) + step.workspace((30,), 3)
    assert plans._plain(output, 10) < told / 2
