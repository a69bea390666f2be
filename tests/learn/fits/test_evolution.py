"""Evolutionary merging: card 15's decoding, known optima, groups of layers, budgets, bad input."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import taskloom
from taskloom.errors import DataError, NumericalError, PlanError, UnknownName
from taskloom.learn.fits.evolution import evolution, groups_of, share
from taskloom.learn.problem import Problem
from taskloom.learn.search import scorer
from taskloom.learn.search.options import genes_of
from taskloom.learn.search.space import Gene, Space
from taskloom.registry import get
from taskloom.store.memory import MemoryCheckpoint

from ..toy import toy


def problem(**more):
    on = toy(**more)
    object.__setattr__(
        on, "merge", lambda method, options: taskloom.merge(on.base, on.experts, method, **options)
    )
    return on


# --- card 15 ----------------------------------------------------------------------------------


def test_card_15_sizes_count_and_densities_are_cut():
    genes = [
        gene
        for name in ("a", "b")
        for gene in (
            Gene(("weights", name), 0.5, fold=True),
            Gene(("density", name), 1.0, 0.0, 1.0, fold=True),
        )
    ]
    for genotype, weights, density in (
        ([0.5, 0.9, -0.25, 1.3], [0.5, 0.25], [0.9, 1.0]),
        ([1.0, 0.2, 1.0, -0.4], [1.0, 1.0], [0.2, 0.4]),
    ):
        made = Space(tuple(genes)).decode(genotype)
        assert [*made["weights"].values()] == weights
        assert [*made["density"].values()] == density


@pytest.mark.parametrize(
    ("numbers", "wanted"), [([0.5, 0.25], [0.666667, 0.333333]), ([1.0, 1.0], [0.5, 0.5])]
)
def test_card_15_normalised(numbers, wanted):
    found = share(dict(zip("ab", numbers, strict=True)))
    np.testing.assert_allclose([*found.values()], wanted, atol=1e-6)


def test_card_15_where_weights_and_densities_begin():
    entry = get("merge", "ties")
    genes = genes_of(
        entry,
        {"weights": (0.0, 2.0), "density": (0.0, 1.0)},
        ("a", "b"),
        {"weights": 0.5, "density": 1.0},
    )
    assert [(g.name, g.start) for g in genes] == [
        ("weights.a", 0.5),
        ("weights.b", 0.5),
        ("density", 1.0),
    ]


# --- known optima -----------------------------------------------------------------------------


def test_card_3_the_minimiser_of_the_divergence():
    found = evolution(problem(labelled=False), objective="js_divergence", evaluations=200)
    assert found.method == "coefficients"
    assert found.options["per"] == "task"
    assert found.options["values"] == pytest.approx({"one": 1.3045, "two": 0.7871}, abs=0.01)
    assert 2 * float(found.said["loss"]) == pytest.approx(0.00559642, abs=1e-5)
    assert len(found.trace) <= 200


def test_it_starts_at_equal_shares_and_is_never_worse():
    found = evolution(problem(), objective="cross_entropy", evaluations=12)
    first = found.trace[0]
    assert (first.values["values.one"], first.values["values.two"]) == (0.5, 0.5)
    assert 2 * first.loss == pytest.approx(0.733769, abs=1e-6)  # card 4
    assert float(found.said["loss"]) <= first.loss
    merged = taskloom.merge(toy().base, toy().experts, found.method, **found.options)
    assert set(merged) == {"weight"}


def test_negative_coefficients_only_if_allowed():
    on = problem(labelled=False)
    folded = evolution(on, objective="entropy", evaluations=60, sigma=1.0)
    assert min(step.values["values.one"] for step in folded.trace) >= 0
    free = evolution(on, objective="entropy", evaluations=60, sigma=1.0, negative=True)
    assert min(step.values["values.one"] for step in free.trace) < 0


def test_normalised_coefficients_average():
    found = evolution(problem(), objective="cross_entropy", evaluations=15, normalize=True, sigma=0.5)
    for step in found.trace:
        assert step.values["values.one"] + step.values["values.two"] == pytest.approx(1.0)


def test_numbers_of_a_method():
    found = evolution(
        problem(labelled=False),
        method="ties",
        options={"scope": "tensor"},
        search={"density": (0.0, 1.0), "weights": (0.0, 2.0), "scale": (0.0, 2.0)},
        objective="js_divergence",
        evaluations=60,
    )
    first, *_ = found.trace
    assert first.values["density"] == 1.0
    assert first.values["scale"] == 1.0
    assert (first.values["weights.one"], first.values["weights.two"]) == (0.5, 0.5)
    assert float(found.said["loss"]) < 0.5 * first.loss
    assert found.options["scope"] == "tensor"
    assert found.said["numbers"] == "4"


# --- groups -----------------------------------------------------------------------------------


def layered(names):
    weights = {name: torch.zeros(1) for name in names}
    on = toy()
    made = object.__new__(Problem)
    object.__setattr__(made, "base", MemoryCheckpoint(weights))
    object.__setattr__(
        made, "experts", {"one": MemoryCheckpoint(weights), "two": MemoryCheckpoint(weights)}
    )
    object.__setattr__(made, "batches", on.batches)
    return made


NAMES = ["emb.w", *(f"encoder.layer.{i}.{part}" for i in range(5) for part in ("a.w", "b.w")), "out.w"]


@pytest.mark.parametrize(
    ("per", "together", "wanted"),
    [
        ("task", 1, [("*",)]),
        ("layer", 1, [("emb",), *((f"encoder.layer.{i}",) for i in range(5)), ("out",)]),
        (
            "layer",
            2,
            [
                ("emb",),
                ("encoder.layer.0", "encoder.layer.1"),
                ("encoder.layer.2", "encoder.layer.3"),
                ("encoder.layer.4",),
                ("out",),
            ],
        ),
        ("layer", 99, [("emb",), tuple(f"encoder.layer.{i}" for i in range(5)), ("out",)]),
        ("tensor", 1, [(name,) for name in NAMES]),
    ],
)
def test_groups(per, together, wanted):
    assert [*groups_of(layered(NAMES), per, together).values()] == wanted


def test_coefficients_of_tensors():
    found = evolution(
        problem(rows=True, labelled=False), per="tensor", objective="js_divergence", evaluations=120
    )
    values = found.options["values"]
    assert {name: set(group) for name, group in values.items()} == {
        "one": {"row0", "row1"},
        "two": {"row0", "row1"},
    }
    assert found.said["numbers"] == "4"
    assert 2 * float(found.said["loss"]) < 0.012
    again = taskloom.merge(toy(rows=True).base, toy(rows=True).experts, found.method, **found.options)
    assert set(again) == {"row0", "row1"}


# --- budget, seeds, resuming ------------------------------------------------------------------


def test_the_budget_is_exact_where_mergekit_runs_over():
    for evaluations in (1, 2, 7, 20):
        found = evolution(problem(), evaluations=evaluations, objective="cross_entropy")
        assert len(found.trace) == evaluations


def test_minutes_alone(monkeypatch):
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(scorer, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    found = evolution(problem(), minutes=1, objective="cross_entropy")
    assert [step.seconds for step in found.trace] == [10, 20, 30, 40, 50, 60]
    assert found.said["budget"] == "1 minutes"
    with pytest.raises(
        PlanError, match=r"0.1 minutes is too small for one evaluation, which took 0.167"
    ):
        evolution(problem(), minutes=0.1, objective="cross_entropy")


def test_seeds():
    def losses(seed):
        return [s.loss for s in evolution(problem(seed=seed), objective="entropy", evaluations=15).trace]

    assert losses(1) == losses(1) != losses(2)


def test_it_goes_on_where_it_was(tmp_path):
    def stop(label, done, total):
        if done == 9:
            raise KeyboardInterrupt

    path = tmp_path / "j.jsonl"
    whole = evolution(problem(labelled=False), objective="entropy", evaluations=40)
    with pytest.raises(KeyboardInterrupt):
        evolution(
            problem(labelled=False, journal=path, progress=stop), objective="entropy", evaluations=40
        )
    found = evolution(problem(labelled=False, journal=path), objective="entropy", evaluations=40)
    assert found.options == whole.options
    assert [s.values for s in found.trace] == [s.values for s in whole.trace]
    assert found.said["evaluations"] == "40, 31 of them measured now"


def test_candidates_that_are_not_finite_are_told():
    on = problem(labelled=False)
    merge = on.merge

    def broken(method, options):
        made = merge(method, options)
        return {n: t * math.nan for n, t in made.items()} if options["values"]["one"] > 0.55 else made

    object.__setattr__(on, "merge", broken)
    found = evolution(on, objective="entropy", evaluations=20)
    bad = sum(not math.isfinite(step.loss) for step in found.trace)
    assert bad > 0
    assert found.said["not finite"] == f"{bad} of 20 candidates"
    assert found.options["values"]["one"] <= 0.55
    told = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert sum(row["loss"] is None for row in told["trace"]) == bad
    object.__setattr__(on, "merge", lambda *_: {"weight": torch.full((2, 2), math.nan).double()})
    with pytest.raises(NumericalError, match=r"none of \d+ candidates"):
        evolution(on, objective="entropy", evaluations=20)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": "tise"}, UnknownName, "did you mean 'ties'"),
        ({"method": "ties"}, PlanError, "nothing is searched over"),
        ({"method": "ties", "search": {"densty": (0, 1)}}, PlanError, "did you mean 'density'"),
        ({"method": "ties", "search": {"scale": (0, 1)}, "per": "layer"}, PlanError, "per and negative"),
        (
            {"method": "ties", "search": {"scale": (0, 1)}, "negative": True},
            PlanError,
            "per and negative",
        ),
        ({"search": {"scale": (0, 1)}}, PlanError, "named by per"),
        ({"together": 2}, PlanError, "together=2 goes with per='layer'.*Leave together out"),
        (
            {"normalize": True, "negative": True},
            PlanError,
            "cannot be normalized.*Leave negative or normalize out",
        ),
        ({"evaluations": 0}, PlanError, "too small for one"),
        ({"minutes": 1e-9}, PlanError, "too small for one evaluation, which took"),
        ({"prefer": {"first": 0}}, PlanError, "no task any weight"),
    ],
)
def test_what_cannot_be(options, error, said):
    with pytest.raises(error, match=said):
        evolution(problem(), **options)


def test_no_labels_and_no_way_to_merge():
    with pytest.raises(DataError, match="labels"):
        evolution(problem(labelled=False))
    with pytest.raises(PlanError, match="does not say how to merge"):
        evolution(toy())
