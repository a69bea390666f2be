"""Steps compose; reads and grain are known before anything is read."""

import dataclasses

import pytest
import torch

from taskloom.algebra import (
    Grain,
    Stack,
    chain,
    cut,
    elect,
    interpolate_sphere,
    keep,
    mean,
    scale,
    total,
)

from .stacks import make


def test_a_chain_of_chains_is_one_chain():
    head, vote, tail = chain(keep(0.5)), elect(), chain(mean(), scale(2))
    assert chain(head, vote, tail).steps == (*head.steps, vote, *tail.steps)
    assert str(chain(head, vote, tail)) == "keep(0.5, model) -> elect -> mean -> scale(2)"


@pytest.mark.parametrize(
    ("parts", "reads"),
    [
        ([], 1),
        ([total()], 1),
        ([keep(0.5, "tensor"), total()], 1),
        ([keep(0.5), total()], 3),
        ([keep(0.5), elect("majority"), total()], 4),
    ],
)
def test_reads(parts, reads):
    assert chain(*parts).reads == reads


@pytest.mark.parametrize(
    ("parts", "grain"),
    [
        ([], Grain.ELEMENT),
        ([keep(0.5), total()], Grain.ELEMENT),
        ([cut(0.1), total()], Grain.ROW),
        ([cut(0.1), interpolate_sphere(0.5)], Grain.TENSOR),
    ],
)
def test_the_coarsest_grain_counts(parts, grain):
    assert chain(*parts).grain is grain
    assert str(grain) == grain.name.lower()


def test_space_and_limits_are_the_outer_chains():
    inner = chain(mean(), space="weight", experts=(2, 2))
    assert (chain(inner).space, chain(inner).experts) == ("delta", (1, None))


def test_with_values_keeps_the_rest():
    stack = Stack("w", torch.ones(2, 3), ("a", "b"), 6, 12)
    other = stack.with_values(torch.zeros(1, 3))
    assert (other.name, other.experts, other.start, other.numel) == ("w", ("a", "b"), 6, 12)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make([[1.0]]).name = "v"
