"""Scale search: one or a few options of a merging method, on a grid or by Bayesian search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from taskloom.errors import PlanError
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.drive import Proposer
from taskloom.learn.search.fit import fit_by_search
from taskloom.learn.search.grid import Grid
from taskloom.learn.search.options import WEIGHTS, check_ranges, genes_of, is_whole
from taskloom.learn.search.scorer import Scorer
from taskloom.learn.search.space import Space
from taskloom.learn.search.with_optuna import Tpe
from taskloom.registry import Entry, register

#: candidates of a Bayesian search that was given no budget
_BAYESIAN = 20


@register(
    "fit",
    paper="Ilharco et al., Editing models with task arithmetic, ICLR 2023, section 4 (grid); "
    "Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011 (Bayesian)",
    needs=("labels",),
)
def scale_search(
    on: Problem,
    *,
    method: str = "task_arithmetic",
    options: Mapping[str, Any] | None = None,
    search: Mapping[str, tuple[float, float]] | None = None,
    how: Literal["grid", "bayesian"] = "grid",
    levels: Annotated[int, Field(ge=2)] = 21,
    objective: str = "error",
    prefer: Mapping[str, float] | None = None,
    evaluations: int | None = None,
    minutes: float | None = None,
) -> Fitted:
    """Choose the scale of a merge, or any of its numbers, by what the merges come to on examples.

    The best candidate that was measured is taken; of equals the first, on a grid the one with the
    smallest settings. The paper of task arithmetic tries 0, 0.05, ..., 1 on validation data and takes
    the best mean over the tasks, which is the default here.

    ``how="bayesian"`` fits two densities to good and bad candidates (optuna's TPE), begins at the middle
    of the ranges, and draws the next nine at random.

    Parameters
    ----------
    method
        A registered merging method.
    options
        Its options that stay as they are.
    search
        Option -> lower and upper end; ``scale`` from 0 to 1 if there is none. ``weights`` stands for one
        number per expert.
    how
        Every combination of ``levels`` settings, or Bayesian search.
    levels
        Of the grid: settings from one end to the other.
    objective
        A registered objective, or ``error``, the share of wrong predictions.
    prefer
        Weight of each task in the loss; all alike if there is none.
    evaluations
        Budget; the whole grid, or 20, if there is neither this nor ``minutes``.
    minutes
        Budget of merging and running candidates.

    Raises
    ------
    UnknownName, PlanError
        A method or option that is not there, a range that is none, a grid larger than the budget.
    DataError
        Examples without labels, where the objective needs them.
    MissingExtra
        ``how="bayesian"`` and optuna is not installed.
    """
    ranges, fixed = dict(search or {"scale": (0.0, 1.0)}), dict(options or {})
    entry = check_ranges(method, ranges, fixed)
    proposer: Proposer
    if how == "grid":
        settings = {name: _settings(entry, name, ends, levels) for name, ends in ranges.items()}
        size = _size(settings, evaluations)
        proposer, budget = Grid(settings, fixed), Budget(size, minutes)
    else:
        space = Space(genes_of(entry, ranges, on.names, {}), fixed)
        none = evaluations is None and minutes is None
        budget = Budget(_BAYESIAN if none else evaluations, minutes)
        proposer = Tpe(space, seed=on.seed)
    return fit_by_search(
        on,
        proposer,
        method,
        label="scale_search",
        scorer=Scorer(on, objective),
        budget=budget,
        prefer=prefer or {},
        said={"searched": ", ".join(f"{n} {low:g} to {high:g}" for n, (low, high) in ranges.items())},
    )


def _settings(entry: Entry, option: str, ends: tuple[float, float], levels: int) -> list[float]:
    if option == WEIGHTS:
        raise PlanError(
            "a grid over the weights of every expert is too large",
            hint="Search them by how=bayesian, or by the fit evolution",
        )
    low, high = ends
    found = [low + (high - low) * level / (levels - 1) for level in range(levels)]
    return [round(each) if is_whole(entry, option) else round(each, 12) for each in found]


def _size(settings: Mapping[str, list[float]], evaluations: int | None) -> int:
    size = 1
    for values in settings.values():
        size *= len(set(values))
    if evaluations is not None and evaluations < size:
        Budget(evaluations)
        raise PlanError(
            f"the grid has {size} points, and the budget is {evaluations} evaluations",
            hint="Give fewer levels, more evaluations, or how=bayesian",
        )
    return size
