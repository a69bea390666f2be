"""A chain that calls itself linear is; one that is not, does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom import registry
from taskloom.algebra import (
    Stack,
    chain,
    cut,
    drop,
    elect,
    keep,
    linear_weights,
    mean,
    scale,
    total,
    weigh,
)
from taskloom.algebra.linear import nonlinear_steps
from taskloom.errors import PlanError
from taskloom.merging.recipe import Recipe

NAMES = ("a", "b", "c")
numbers = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))
LINEAR = {"average", "task_arithmetic", "task_negation", "task_analogy"}


def run(parts, values):
    stack = Stack("w", values, NAMES[: len(values)], 0, values[0].numel())
    for step in parts.steps:
        stack = step.apply(stack, None)
    return stack.values[0]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("task_arithmetic", {"scale": 0.5}, (0.5, 0.5, 0.5)),
        ("task_arithmetic", {"scale": 2.0, "weights": {"c": 3.0, "a": 1.0, "b": 0.0}}, (2.0, 0.0, 6.0)),
        ("task_negation", {"scale": 0.4}, (-0.4, -0.4, -0.4)),
        ("task_analogy", {"scale": 2.0}, (-2.0, 2.0, 2.0)),
        ("average", {}, (1 / 3, 1 / 3, 1 / 3)),
        ("average", {"weights": [1.0, 1.0, 2.0]}, (0.25, 0.25, 0.5)),
    ],
)
def test_the_numbers_of_the_cards(method, options, expected):
    assert linear_weights(Recipe.of(method, **options).chain, NAMES) == pytest.approx(expected)


def test_a_learned_scale_counts_with_its_value():
    recipe = Recipe.of("task_arithmetic", scale=torch.tensor(0.25, requires_grad=True))
    assert linear_weights(recipe.chain, ("a", "b")) == (0.25, 0.25)


@pytest.mark.parametrize("entry", registry.entries("merge"), ids=lambda entry: entry.name)
def test_exactly_the_linear_methods_say_so(entry):
    required = [n for n, f in entry.schema.model_fields.items() if f.is_required()]
    if required:
        pytest.skip(f"needs {required}")
    composed = entry.function()
    experts = NAMES[: composed.experts[1] or 3]
    found = linear_weights(composed, experts)
    if entry.name in LINEAR:
        assert found is not None
    if found is None:
        assert nonlinear_steps(composed)
        return
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 5), (4,), ()):
        values = torch.randn(len(experts), *shape, generator=generator, dtype=torch.float64)
        by_hand = sum(w * v for w, v in zip(found, values, strict=True))
        torch.testing.assert_close(run(composed, values), by_hand)


@pytest.mark.parametrize(
    "step", [keep(0.5, "tensor"), keep(0.5), cut(0.1), drop(0.5), elect(), mean("kept")]
)
def test_steps_that_look_at_values_are_named(step):
    composed = chain(weigh([1.0, 1.0, 1.0]), step, total())
    assert linear_weights(composed, NAMES) is None
    assert nonlinear_steps(composed) == (step,)


@given(st.lists(numbers, min_size=3, max_size=3), numbers, st.booleans())
def test_weights_are_what_the_chain_does(weights, factor, plain):
    end = total() if plain else mean(normalize=False, weights=[1.0, -1.0, 2.0])
    composed = chain(weigh(weights), end, scale(factor))
    found = linear_weights(composed, NAMES)
    values = torch.arange(12, dtype=torch.float64).reshape(3, 4) - 5
    by_hand = sum(w * v for w, v in zip(found, values, strict=True))
    torch.testing.assert_close(run(composed, values), by_hand)


def test_a_mean_of_the_kept_without_division_is_a_sum():
    assert linear_weights(chain(mean("kept", [1.0, 2.0], normalize=False)), ("a", "b")) == (1.0, 2.0)


def test_weights_that_do_not_fit_and_open_ends_are_refused():
    with pytest.raises(PlanError, match="2 weights were given for 3 experts"):
        linear_weights(chain(weigh([1.0, 2.0]), total()), NAMES)
    with pytest.raises(PlanError, match="ends with 3 rows"):
        linear_weights(chain(weigh([1.0, 2.0, 3.0])), NAMES)
