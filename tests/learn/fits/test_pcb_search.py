"""PCB-Merging's own search: the ratio, and a coefficient for each task vector, by CMA-ES on examples."""

import pytest
import torch

import taskloom
from taskloom.learn.fits.evolution import evolution
from taskloom.learn.search.scorer import Scorer

from ..toy import OWN, toy

pytest.importorskip("cma")


def problem():
    on = toy()
    merge = lambda method, options: taskloom.merge(on.base, on.experts, method, **options)  # noqa: E731
    object.__setattr__(on, "merge", merge)
    return on


@pytest.fixture(scope="module")
def found():
    return evolution(
        problem(),
        method="pcb",
        options={"scale": 1.0, "clamp": 0.0},
        search={"ratio": (0.25, 1.0), "weights": (0.0, 2.0)},
        objective="cross_entropy",
        evaluations=60,
    )


def test_every_task_vector_has_a_coefficient_of_its_own(found):
    assert found.method == "pcb"
    assert set(found.options["weights"]) == {*OWN.values()}
    assert len({step.values["weights.one"] for step in found.trace}) > 20
    assert len({step.values["weights.two"] for step in found.trace}) > 20
    assert all(0.25 <= step.values["ratio"] <= 1 for step in found.trace)
    assert found.said["numbers"] == "3"


def test_what_is_kept_is_the_best_that_was_tried_and_better_than_equal_ones(found):
    first = found.trace[0]
    assert (first.values["weights.one"], first.values["weights.two"]) == (0.5, 0.5)
    best = min(step.loss for step in found.trace)
    assert float(found.said["loss"]) == pytest.approx(best)
    assert best < 0.9 * first.loss


def test_the_recipe_makes_the_model_that_was_measured(found):
    on = problem()
    merged = taskloom.merge(on.base, on.experts, "pcb", **found.options)
    losses = Scorer(on, "cross_entropy")(lambda: merged).losses
    assert sum(losses.values()) / len(losses) == pytest.approx(float(found.said["loss"]), abs=1e-6)
    assert torch.isfinite(merged["weight"]).all()
