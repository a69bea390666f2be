"""AdaMerging: coefficients that make the merged model sure of what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from taskloom.algebra.grouped import Per
from taskloom.learn.coefficients.descend import Descent, Shape, descend, start_of, weights_of
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.registry import register


@register(
    "fit",
    paper="Yang et al., AdaMerging, ICLR 2024 (arXiv 2310.02575)",
    needs=("unlabeled",),
    partly={
        "AdaMerging": "it is fitted and applied, task-wise, layer-wise and ++; the comparison with task "
        "arithmetic on unseen tasks and under shift has not been run"
    },
)
def adamerging(
    on: Problem,
    *,
    per: Per = "tensor",
    objective: str = "entropy",
    objective_options: Mapping[str, Any] | None = None,
    trim: Annotated[float, Field(gt=0, le=1)] | None = None,
    start: float | None = None,
    shape: Shape = "clamp",
    rate: Annotated[float, Field(gt=0)] = 1e-3,
    steps: Annotated[int, Field(ge=1)] = 500,
    passes: Annotated[int, Field(ge=1)] = 2,
    parts: Annotated[int, Field(ge=1)] = 1,
    prefer: Mapping[str, float] | None = None,
    check_every: Annotated[int, Field(ge=1)] | None = None,
    threads: Annotated[int, Field(ge=1)] | None = None,
    lean: bool = False,
) -> Fitted:
    """Learn one coefficient per expert and tensor that minimises the entropy of predictions.

    Adam on the sum over tasks of the mean entropy of a batch. ``per="task"`` is the task-wise variant,
    ``per="tensor"`` the layer-wise one: in released code (cea1165) and in FusionBench a layer is a
    parameter tensor, weights and biases apart, and so it is here; ``per="layer"`` takes blocks.
    ``trim=0.2`` is AdaMerging++: TIES trims the task vectors and elects signs, and what every expert
    keeps is weighed on its own instead of being summed.

    The paper fits on the test inputs, as released code does; here a transductive fit must be asked for
    by name, and is reported. Released code draws new batches of 16 at every step; here a task's batches
    come in turn. It clamps coefficients to [0, 1] in the forward pass, which stops the gradient
    outside; FusionBench does not by default (``shape="free"``), takes one batch and 1000 steps.

    Parameters
    ----------
    per, parts
        What has a coefficient; see the merging method ``coefficients``.
    objective, objective_options
        Any registered objective in place of entropy.
    trim
        Share of entries that TIES leaves; None takes the task vectors as they are.
    start
        Of every coefficient; 0.3 if None. Shares start equal.
    shape
        ``"clamp"`` to [0, 1], ``"free"``, or ``"shares"`` (softmax over the experts).
    rate, steps, passes
        Of Adam; optimiser steps; batches of every task for each step.
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
        start=start_of("adamerging", shape, start, otherwise=0.3, experts=len(on.names)),
        shape=shape,
        rate=rate,
        steps=steps,
        passes=passes,
        weights=weights_of(prefer, on.tasks),
        trim=trim,
        check_every=check_every,
        threads=threads,
        lean=lean,
    )
    return descend(on, how, name="adamerging")
