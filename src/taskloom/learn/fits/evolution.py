"""Evolutionary merging: CMA-ES over coefficients, or over the numbers of a merging method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from taskloom.algebra.grouped import group_of
from taskloom.errors import PlanError
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.fit import fit_by_search
from taskloom.learn.search.options import WEIGHTS, check_ranges, genes_of
from taskloom.learn.search.scorer import Scorer
from taskloom.learn.search.space import Gene, Space
from taskloom.learn.search.with_cma import CmaEs
from taskloom.registry import register

#: the merging method whose numbers are one per expert and group
_COEFFICIENTS = "coefficients"


@register(
    "fit",
    paper="Akiba et al., Evolutionary optimization of model merging recipes, Nature Machine "
    "Intelligence 2025 (parameter space)",
    needs=("labels",),
)
def evolution(
    on: Problem,
    *,
    method: str = _COEFFICIENTS,
    options: Mapping[str, Any] | None = None,
    search: Mapping[str, tuple[float, float]] | None = None,
    per: Literal["task", "layer", "tensor"] = "task",
    together: Annotated[int, Field(ge=1)] = 1,
    negative: bool = False,
    normalize: bool = False,
    sigma: Annotated[float, Field(gt=0)] = 1 / 6,
    population: Annotated[int, Field(ge=2)] | None = None,
    objective: str = "error",
    prefer: Mapping[str, float] | None = None,
    evaluations: int | None = None,
    minutes: float | None = None,
) -> Fitted:
    """Evolve the numbers of a merge by what the merges come to on examples.

    CMA-ES draws generations of candidates around a mean, and moves the mean, the step and the shape of
    the draws towards the better half. The best candidate that was measured is taken.

    With ``method="coefficients"`` a candidate has one number for every expert and group of tensors, 1/K
    at the start. With any other method ``search`` names the options that evolve: ``{"density": (0, 1),
    "weights": (0, 2)}`` with TIES or DARE is what mergekit-evolve searches, but for its layer groups.

    The search of the paper was not released; its parameters (a mean of 0.5, steps of 1/6, 4 + 3 ln n
    candidates) were read second hand. mergekit's (a6e4028) is the pattern here: weights begin at 1/n and
    densities at 1, sizes count where negative weights are not allowed, steps are 1/6. Differences: the
    start is measured as well; the number of evaluations is kept exactly, where mergekit's generations
    run over it; numbers have the ranges that are given, and steps follow their width; a candidate whose
    loss is not finite is the worst, not an error; SLERP of the two largest genes, the interpolation over
    layers (``smooth``) and the search of data flow through layers are not here.

    Parameters
    ----------
    method
        The merging method whose options evolve.
    options
        Its options that stay as they are.
    search
        Option -> lower and upper end, for methods other than ``coefficients``; ``weights`` stands for
        one number per expert.
    per
        Of coefficients: one number for each expert, or for each of its numbered layers (with what stands
        outside them), or for each of its tensors.
    together
        With ``per="layer"``: as many layers in a row share their numbers (mergekit's layer granularity).
    negative
        Coefficients may be negative; otherwise sizes count.
    normalize
        The coefficients of a group are divided by their sum, so that they average the experts.
    sigma
        First step: standard deviation of the draws, in widths of the ranges (1 for coefficients).
    population
        Candidates of a generation; ``4 + floor(3 ln n)`` if None.
    objective
        A registered objective, or ``error``, the share of wrong predictions.
    prefer
        Weight of each task in the loss; all alike if there is none.
    evaluations
        Budget; 100 if there is neither this nor ``minutes``.
    minutes
        Budget of merging and running candidates.

    Raises
    ------
    UnknownName, PlanError
        A method or option that is not there, a range that is none, a budget too small.
    DataError
        Examples without labels, where the objective needs them.
    MissingExtra
        cma is not installed.
    """
    none = evaluations is None and minutes is None
    budget = Budget(100 if none else evaluations, minutes)
    space = (
        _coefficients(on, options, search, per, together, negative, normalize)
        if method == _COEFFICIENTS
        else _options(on, method, options, search, per, negative, normalize)
    )
    return fit_by_search(
        on,
        CmaEs(space, sigma=sigma, population=population, seed=on.seed),
        method,
        label="evolution",
        scorer=Scorer(on, objective),
        budget=budget,
        prefer=prefer or {},
        said={"numbers": str(len(space.genes))},
    )


def _options(
    on: Problem,
    method: str,
    options: Mapping[str, Any] | None,
    search: Mapping[str, tuple[float, float]] | None,
    per: str,
    negative: bool,
    normalize: bool,
) -> Space:
    fixed = dict(options or {})
    entry = check_ranges(method, search or {}, fixed)
    if per != "task" or negative:
        raise PlanError(
            f"per and negative are of coefficients; the options of {method} evolve within their ranges",
            hint="Leave them out, or take the method coefficients",
        )
    if not search:
        raise PlanError(
            f"evolution of {method}: nothing is searched over",
            hint="Name its options with their ranges, such as search.density=[0,1]",
        )
    starts = {WEIGHTS: 1 / len(on.names), "density": 1.0}
    genes = genes_of(entry, search, on.names, starts)
    return Space(genes, fixed, finish=_normalized if normalize else None)


def _normalized(options: dict[str, Any]) -> dict[str, Any]:
    """Divide the experts' weights by their sum; all alike where that is 0."""
    weights = options.get(WEIGHTS)
    return options if weights is None else {**options, WEIGHTS: share(weights)}


def share(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers divided by their sum.

    >>> share({"a": 0.5, "b": 0.25, "c": 0.25}), share({"a": 0.0, "b": 0.0})
    ({'a': 0.5, 'b': 0.25, 'c': 0.25}, {'a': 0.5, 'b': 0.5})
    """
    total = sum(numbers.values())
    if not total:
        return dict.fromkeys(numbers, 1 / len(numbers))
    return {name: number / total for name, number in numbers.items()}


def _coefficients(
    on: Problem,
    options: Mapping[str, Any] | None,
    search: Mapping[str, tuple[float, float]] | None,
    per: Literal["task", "layer", "tensor"],
    together: int,
    negative: bool,
    normalize: bool,
) -> Space:
    if search:
        raise PlanError(
            "the numbers of the method coefficients are named by per, not by search",
            hint="Leave search out, or take another method",
        )
    if together > 1 and per != "layer":
        raise PlanError(
            f"together={together} goes with per='layer', not {per!r}", hint="Leave together out"
        )
    if normalize and negative:
        raise PlanError(
            "negative coefficients cannot be normalized: their sum may be 0",
            hint="Leave negative or normalize out",
        )
    groups = groups_of(on, per, together)
    genes = [
        Gene(("values", name, label), 1 / len(on.names), fold=not negative)
        for label in groups
        for name in on.names
    ]

    def finish(found: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, dict[str, float]] = found["values"]
        if normalize:
            shares = {label: share({n: values[n][label] for n in on.names}) for label in groups}
            values = {n: {label: shares[label][n] for label in groups} for n in on.names}
        if per == "task":
            return {**found, "values": {n: next(iter(v.values())) for n, v in values.items()}}
        spread = {
            name: {group: v[label] for label, members in groups.items() for group in members}
            for name, v in values.items()
        }
        return {**found, "values": spread}

    return Space(tuple(genes), {**(options or {}), "per": per}, finish=finish)


def groups_of(
    on: Problem, per: Literal["task", "layer", "tensor"], together: int
) -> dict[str, tuple[str, ...]]:
    """Return label -> the groups that share their numbers, in the order of the base's tensors.

    Numbered layers are put together as they follow each other; what is outside of them stays by itself.
    """
    names = [name for name, info in on.base.tensors.items() if info.is_float]
    groups = list(dict.fromkeys(group_of(name, per) for name in names))
    runs: list[list[str]] = []
    for group in groups:
        stem = group.rpartition(".")[0] if group.rpartition(".")[2].isdigit() else ""
        last = runs[-1] if runs else []
        if stem and last and len(last) < together and last[0].rpartition(".")[0] == stem:
            last.append(group)
        else:
            runs.append([group])
    return {run[0]: tuple(run) for run in runs}
