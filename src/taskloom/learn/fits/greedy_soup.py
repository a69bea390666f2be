"""The greedy soup, found within a budget."""

from __future__ import annotations

from collections.abc import Mapping

from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.fit import fit_by_search
from taskloom.learn.search.greedy import GreedySoup
from taskloom.learn.search.scorer import Scorer
from taskloom.registry import register


@register(
    "fit",
    paper="Wortsman et al., Model soups, ICML 2022, recipe 1 (greedy soup)",
    needs=("labels",),
)
def greedy_soup(
    on: Problem,
    *,
    ties: bool = True,
    objective: str = "error",
    prefer: Mapping[str, float] | None = None,
    evaluations: int | None = None,
    minutes: float | None = None,
) -> Fitted:
    """Average in the experts that do not make the average worse on examples, the best first.

    The order of tasting is that of `taskloom.greedy_soup`; K experts take 2 K - 1 evaluations. Where the
    budget ends earlier, the soup so far is taken, or the best of the experts that were tasted.

    Parameters
    ----------
    ties
        Keep an expert that leaves the loss as it is, as the paper does; released code does not.
    objective
        A registered objective, or ``error``, the share of wrong predictions.
    prefer
        Weight of each task in the loss; all alike if there is none.
    evaluations
        Budget; all there are if there is neither this nor ``minutes``.
    minutes
        Budget of merging and running candidates.

    Raises
    ------
    PlanError
        A budget too small for one evaluation.
    DataError
        Examples without labels, where the objective needs them.
    """
    all_ = 2 * len(on.names) - 1
    none = evaluations is None and minutes is None
    return fit_by_search(
        on,
        GreedySoup(on.names, ties=ties),
        "greedy_soup",
        label="greedy_soup",
        scorer=Scorer(on, objective),
        budget=Budget(all_ if none else evaluations, minutes),
        prefer=prefer or {},
    )
