"""The greedy soup within a budget: the one of `taskloom.greedy_soup`, resumable."""

import pytest
import torch

import taskloom
from taskloom.errors import PlanError
from taskloom.learn.fits.greedy_soup import greedy_soup
from taskloom.learn.search.scorer import Scorer
from taskloom.store.memory import MemoryCheckpoint

from ..toy import BASE, TAUS, toy

POINTS = {"near": (0.9, 0.8), "one": (1.5, 0.2), "off": (-1.0, 2.0), "two": (0.3, 1.4)}


def problem(**more):
    on = toy(**more)
    experts = {
        name: MemoryCheckpoint({"weight": BASE + a * TAUS["one"] + b * TAUS["two"]})
        for name, (a, b) in POINTS.items()
    }
    object.__setattr__(on, "experts", experts)
    object.__setattr__(on, "own", {})
    object.__setattr__(on, "merge", lambda method, o: taskloom.merge(None, experts, method, **o))
    return on


@pytest.mark.parametrize("objective", ["cross_entropy", "entropy", "error"])
@pytest.mark.parametrize("ties", [True, False])
def test_it_is_the_greedy_soup(objective, ties):
    on = problem()
    scorer = Scorer(on, objective)
    wanted = taskloom.greedy_soup(
        on.experts, lambda w: -sum(scorer(lambda: w).losses.values()) / 2, ties=ties
    )
    found = greedy_soup(on, objective=objective, ties=ties)
    assert found.method == "greedy_soup"
    assert tuple(found.options["ingredients"]) == wanted.ingredients
    assert len(found.trace) == 7
    merged = taskloom.merge(None, on.experts, found.method, **found.options)
    torch.testing.assert_close(merged["weight"], wanted.weights["weight"])


def test_a_budget_that_ends_early_gives_the_soup_so_far():
    whole = greedy_soup(problem(), objective="cross_entropy")
    for evaluations in range(1, 7):
        found = greedy_soup(problem(), objective="cross_entropy", evaluations=evaluations)
        assert [s.loss for s in found.trace] == [s.loss for s in whole.trace[:evaluations]]
        assert float(found.said["loss"]) == pytest.approx(min(s.loss for s in found.trace), rel=1e-5)


def test_what_is_left_is_tasted_when_it_goes_on(tmp_path):
    path = tmp_path / "j.jsonl"
    whole = greedy_soup(problem(), objective="cross_entropy")
    greedy_soup(problem(journal=path), objective="cross_entropy", evaluations=3)
    found = greedy_soup(problem(journal=path), objective="cross_entropy")
    assert found.options == whole.options
    assert found.said["evaluations"] == "7, 4 of them measured now"


def test_more_than_there_is_to_taste():
    found = greedy_soup(problem(), evaluations=50)
    assert len(found.trace) == 7
    assert found.said["ended"] == "there was nothing more to try"


def test_a_budget_too_small():
    with pytest.raises(PlanError, match="too small for one"):
        greedy_soup(problem(), evaluations=0)
    with pytest.raises(PlanError, match="does not say how to merge"):
        greedy_soup(toy())
