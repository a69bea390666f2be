"""Known optima within the budget; seeds; the outside world stays as it was."""

import itertools
import random
import warnings

import numpy as np
import pytest

import taskloom
from taskloom.errors import MissingExtra, PlanError
from taskloom.learn.search.greedy import GreedySoup
from taskloom.learn.search.grid import Grid
from taskloom.learn.search.outside import Aside
from taskloom.learn.search.space import Gene, Space
from taskloom.learn.search.with_cma import CmaEs
from taskloom.learn.search.with_nevergrad import Nevergrad
from taskloom.learn.search.with_optuna import Tpe

from .bowls import bowl, space, told

TARGET = [0.6, -0.9, 0.2]


def cma(seed=0, count=3, **more):
    return CmaEs(space(count), seed=seed, **more)


def tpe(seed=0, count=3):
    return Tpe(space(count), seed=seed)


def few(seed=0, count=3):
    return Nevergrad(space(count), evaluations=40, seed=seed)


def many(seed=0, count=3):
    return Nevergrad(space(count), evaluations=400, seed=seed)


def evolved(seed=0, count=3):
    return Nevergrad(space(count), evaluations=40, optimiser="cma", seed=seed)


@pytest.mark.parametrize(
    ("make", "evaluations", "near"),
    [(cma, 150, 1e-3), (tpe, 80, 0.15), (few, 40, 1e-4), (many, 120, 1e-2), (evolved, 120, 1e-2)],
)
def test_a_known_optimum_is_reached_within_the_budget(make, evaluations, near):
    rows, _ = told(make(), bowl(TARGET), evaluations)
    assert len(rows) <= evaluations
    assert min(loss for _, loss in rows) < near


@pytest.mark.parametrize("make", [cma, few, many])
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_numbers(make, count):
    rows, _ = told(make(count=count), bowl(TARGET[:count]), 60)
    assert min(loss for _, loss in rows) < 0.05


@pytest.mark.parametrize("make", [cma, tpe, few, many, evolved])
def test_equal_seeds_search_alike_whatever_others_draw(make):
    one = told(make(seed=4), bowl(TARGET), 30)

    def noisy(candidate):
        np.random.rand(3)
        random.random()
        return bowl(TARGET)(candidate)

    assert told(make(seed=4), noisy, 30) == one


@pytest.mark.parametrize("make", [cma, tpe, many, evolved])
def test_other_seeds_search_elsewhere(make):
    assert told(make(seed=0), bowl(TARGET), 12) != told(make(seed=1), bowl(TARGET), 12)


def test_cobyla_draws_nothing():
    assert few().name == "Cobyla"
    assert told(few(seed=0), bowl(TARGET), 40) == told(few(seed=1), bowl(TARGET), 40)


@pytest.mark.parametrize("make", [cma, tpe, few, many])
def test_the_generators_of_others_are_left_alone(make):
    np.random.seed(7)
    random.seed(7)
    wanted = np.random.rand(2).tolist(), random.random()
    np.random.seed(7)
    random.seed(7)
    told(make(), bowl(TARGET), 15)
    assert (np.random.rand(2).tolist(), random.random()) == wanted


@pytest.mark.parametrize("make", [cma, tpe, few, many, evolved])
def test_nothing_is_printed_or_warned(make, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told(make(), bowl(TARGET), 15)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("make", [cma, tpe, few])
def test_the_start_is_tried_first(make):
    assert make().ask() == {"weights": {"e0": 0.0, "e1": 0.0, "e2": 0.0}}


@pytest.mark.parametrize("make", [cma, tpe, few, many])
def test_candidates_stay_in_their_ranges(make):
    rows, _ = told(make(), lambda c: -sum(c["weights"].values()), 40)
    for candidate, _ in rows:
        assert all(-1.5 <= number <= 1.5 for number in candidate["weights"].values())
    assert max(sum(c["weights"].values()) for c, _ in rows) > 2.5


def test_cma_ends_when_it_has_converged():
    rows, _ = told(cma(count=2), bowl(TARGET[:2]), 5000)
    assert len(rows) < 2000
    assert min(loss for _, loss in rows) < 1e-10


def test_a_population_of_ones_own():
    rows, _ = told(cma(population=5), bowl(TARGET), 11)
    assert len(rows) == 11


@pytest.mark.parametrize(("package", "make"), [("cma", cma), ("optuna", tpe), ("nevergrad", few)])
def test_a_library_that_is_not_installed(monkeypatch, package, make):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*taskloom\[search\]"):
        make()


def test_importing_the_fits_needs_no_library():
    import subprocess
    import sys

    code = (
        "import sys, taskloom.learn.fits.lorahub, taskloom.learn.fits.scale_search;"
        "print([m for m in ('cma', 'nevergrad', 'optuna') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- grid -------------------------------------------------------------------------------------


def test_the_grid_is_every_combination_in_rising_order():
    rows, recommended = told(
        Grid({"a": [2.0, 1.0, 1.0], "b": [0.5, 0.0]}, {"c": "x"}), lambda c: 0.0, 99
    )
    points = [(row["a"], row["b"]) for row, _ in rows]
    assert points == list(itertools.product([1.0, 2.0], [0.0, 0.5]))
    assert all(row["c"] == "x" for row, _ in rows)
    assert recommended is None


@pytest.mark.parametrize(("settings", "said"), [({}, "nothing"), ({"a": []}, "no settings")])
def test_a_grid_of_nothing(settings, said):
    with pytest.raises(PlanError, match=said):
        Grid(settings)


# --- greedy soup ------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_greedy_search_tastes_what_the_greedy_soup_does(seed, ties):
    import torch

    rng = np.random.default_rng(seed)
    experts = {f"e{i}": {"w": torch.tensor(rng.integers(0, 4, 2) / 2)} for i in range(5)}
    tasted = []

    def score(weights):
        tasted.append(weights["w"].tolist())
        return -round(float(((weights["w"] - 0.8) ** 2).sum()), 1)

    wanted = taskloom.greedy_soup(experts, score, ties=ties)

    def loss(candidate):
        rows = [experts[name]["w"] for name in candidate["ingredients"]]
        return round(float(((torch.stack(rows).mean(0) - 0.8) ** 2).sum()), 1)

    rows, recommended = told(GreedySoup([*experts], ties=ties), loss, 99)
    assert len(rows) == len(tasted) == 9
    assert tuple(recommended["ingredients"]) == wanted.ingredients


def test_a_greedy_search_that_ends_early():
    losses = {("a",): 2.0, ("b",): 1.0, ("c",): 3.0, ("b", "a"): 0.5}

    def loss(candidate):
        return losses[tuple(candidate["ingredients"])]

    for count, wanted in ((1, ["a"]), (2, ["b"]), (3, ["b"]), (4, ["b", "a"])):
        rows, recommended = told(GreedySoup(["a", "b", "c"]), loss, count)
        assert len(rows) == count
        assert recommended == {"ingredients": wanted}


# --- what is aside ----------------------------------------------------------------------------


def test_aside_goes_on_where_it_was():
    aside, other = Aside(1), Aside(1)
    with aside.here():
        first = np.random.rand(2).tolist(), random.random()
    np.random.rand(5)
    with aside.here():
        second = np.random.rand(2).tolist(), random.random()
    with other.here():
        assert (np.random.rand(2).tolist(), random.random()) == first
        assert (np.random.rand(2).tolist(), random.random()) == second


def test_aside_is_left_after_an_error():
    before = random.getstate()
    with pytest.raises(KeyError), Aside(0).here():
        {}[random.random()]
    assert random.getstate() == before


# --- space ------------------------------------------------------------------------------------


def test_genes_are_cut_folded_and_rounded():
    genes = (
        Gene(("density",), 1.0, 0.0, 1.0, fold=True),
        Gene(("rank",), 2, 1, 8, whole=True),
        Gene(("weights", "a"), 0.5, fold=True),
        Gene(("weights", "b"), 0.5),
    )
    made = Space(genes, {"scope": "model"}).decode([-1.3, 3.6, -0.25, -0.25])
    assert made == {"density": 1.0, "rank": 4, "scope": "model", "weights": {"a": 0.25, "b": -0.25}}
    assert type(made["rank"]) is int


def test_candidates_share_nothing():
    fixed = {"weights": {"c": 0.0}}
    mine = Space((Gene(("weights", "a"), 0.0),), fixed)
    one, two = mine.decode([1.0]), mine.decode([2.0])
    assert one == {"weights": {"c": 0.0, "a": 1.0}}
    assert two["weights"]["a"] == 2.0
    assert fixed == {"weights": {"c": 0.0}}


@pytest.mark.parametrize(("start", "low", "high"), [(2.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.5, 1.0, 0.0)])
def test_a_range_without_its_start(start, low, high):
    with pytest.raises(PlanError, match=r"'scale'.*no range with a start"):
        Gene(("scale",), start, low, high)


def test_a_space_of_nothing():
    with pytest.raises(PlanError, match="nothing is searched"):
        Space(())
