"""Self Positioning: stochastic gradient descent in the space that the task vectors span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from taskloom.algebra.grouped import Per
from taskloom.learn.coefficients.descend import Descent, Shape, descend, start_of, weights_of
from taskloom.learn.coefficients.optimiser import Kind
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.registry import register


@register(
    "fit",
    paper="Li et al., Improving general text embedding model, 2024 (arXiv 2410.15035)",
    needs=("labels",),
    partly={
        "Self Positioning": "the search runs on classes and on pairs of embeddings; it has not been "
        "held against joint training and resampling"
    },
)
def self_positioning(
    on: Problem,
    *,
    objective: str = "cross_entropy",
    objective_options: Mapping[str, Any] | None = None,
    per: Per = "task",
    shape: Shape = "free",
    total: Annotated[float, Field(gt=0)] = 1.0,
    start: float | None = None,
    optimizer: Kind = "sgd",
    rate: Annotated[float, Field(gt=0)] = 0.1,
    steps: Annotated[int, Field(ge=1)] = 200,
    passes: Annotated[int, Field(ge=1)] = 1,
    parts: Annotated[int, Field(ge=1)] = 1,
    prefer: Mapping[str, float] | None = None,
    check_every: Annotated[int, Field(ge=1)] | None = None,
    threads: Annotated[int, Field(ge=1)] | None = None,
    lean: bool = False,
) -> Fitted:
    """Search one coefficient per expert by SGD on a small probe set that covers all tasks.

    ``min_c sum_t mean_{x in D_t} loss(theta_0 + sum_k c_k tau_k)``: every task weighs the same, however
    many examples it has, unless ``prefer`` says otherwise. For embedding models take the objective
    ``contrastive``, whose labels are the pairs, and a model whose output is the embedding.

    Of the paper we could read the abstract and no code; start, rate and steps are ours. Summaries speak
    of a convex combination: that is ``shape="shares"``, ``total`` times a softmax.

    Parameters
    ----------
    objective, objective_options
        The probe loss: a registered objective.
    per, parts
        What has a coefficient; the paper's are per ``"task"``.
    shape, total
        ``"free"``, ``"clamp"``, or ``"shares"`` that add up to ``total``.
    start
        Of every coefficient; 1 / K if None. Shares start equal.
    optimizer, rate, steps, passes
        Of the descent; batches of every task for each step.
    prefer
        Weight of each task in the loss, by their ratio; one that is left out has none. All alike if
        there is no preference.
    check_every
        Steps between checks on validation; the best coefficients are kept. None keeps the last.
    threads
        That stream task vectors; it changes no number.
    lean
        Keep no gradient of the model in memory; task vectors are read for every batch instead.

    Raises
    ------
    PlanError
        A start for shares; a preference for what is no task.
    """
    how = Descent(
        objective,
        objective_options or {},
        per=per,
        parts=parts,
        parts_seed=on.seed,
        start=start_of(
            "self_positioning", shape, start, otherwise=1 / len(on.names), experts=len(on.names)
        ),
        shape=shape,
        total=total,
        optimizer=optimizer,
        rate=rate,
        steps=steps,
        passes=passes,
        weights=weights_of(prefer, on.tasks),
        check_every=check_every,
        threads=threads,
        lean=lean,
    )
    return descend(on, how, name="self_positioning")
