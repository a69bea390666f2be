"""Recipes: names, options, seeds, identity."""

import json

import pytest
import torch

from taskloom.errors import PlanError, UnknownName
from taskloom.merging.recipe import Recipe


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown merging method 'tise': did you mean 'ties'\?"):
        Recipe.of("tise")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(PlanError, match=r"ties: unknown option 'densty': did you mean 'density'\?"):
        Recipe.of("ties", densty=0.2)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"density": -0.1}),
        ("ties", {"density": 2}),
        ("ties", {"density": "much"}),
        ("ties", {"scope": "layer"}),
        ("ties", {"variant": "official"}),
        ("dare_linear", {"p": 1.01}),
        ("breadcrumbs", {"remove": -1}),
        ("slerp", {"threshold": 0}),
        ("task_arithmetic", {"scale": "x"}),
        ("task_arithmetic", {"scale": float("nan")}),
        ("task_arithmetic", {"scale": float("inf")}),
        ("average", {"weights": "abc"}),
        ("average", {"weights": 3}),
    ],
)
def test_values_that_cannot_be(method, options):
    with pytest.raises(PlanError, match=f"^{method}: .*{next(iter(options))}"):
        Recipe.of(method, **options)


def test_a_seed_goes_to_methods_that_draw():
    assert Recipe.of("dare_linear", seed=7).options["seed"] == 7
    assert "seed" not in Recipe.of("average", seed=7).options


def test_a_recipe_that_names_no_seed_has_the_methods_own():
    assert "seed 0" in str(Recipe.of("dare_linear").chain)


def test_values_are_coerced():
    recipe = Recipe.of("ties", density="0.5", weights=(1, 2))
    assert recipe.options["density"] == 0.5


def test_options_cannot_be_changed():
    with pytest.raises(TypeError):
        Recipe.of("ties", density=0.5).options["density"] = 0.1


def test_equal_and_hashable_by_method_and_options():
    a, b = Recipe.of("ties", density=0.5), Recipe.of("ties", density=0.5)
    assert a == b
    assert len({a, b, Recipe.of("ties"), Recipe.of("average")}) == 3
    assert a != "ties"


def test_learned_numbers_are_shown_by_value():
    recipe = Recipe.of("task_arithmetic", scale=torch.tensor(0.5), weights=torch.tensor([1.0, 2.0]))
    assert json.loads(json.dumps(recipe.plain())) == {"scale": 0.5, "weights": [1.0, 2.0]}
    assert recipe == Recipe.of("task_arithmetic", scale=0.5, weights=[1.0, 2.0])
    assert "scale(learned)" in str(recipe.chain)


@pytest.mark.parametrize("form", [lambda w: [w, 1.0], lambda w: {"a": w, "b": 1.0}])
def test_gradients_are_not_lost_in_lists(form):
    weight = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(PlanError, match=r"'weights' holds tensors that require grad.*torch\.stack"):
        Recipe.of("task_arithmetic", weights=form(weight))
