"""aTLAS: one coefficient per task vector and parameter block, learned on a few labels or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from taskloom.algebra.grouped import Per
from taskloom.errors import PlanError
from taskloom.learn.coefficients.descend import Descent, Schedule, descend, weights_of
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.registry import register

Setting = Literal["supervised", "few_shot", "unsupervised", "training"]


@register(
    "fit",
    paper="Zhang et al., Knowledge composition using task vectors with learned anisotropic scaling, "
    "NeurIPS 2024 (arXiv 2407.02880)",
    needs=("labels",),
    partly={
        "aTLAS": "all settings can be fitted; docs/learned.md is about task addition, of one seed, and "
        "docs/few_shot.md about few labels, while test-time adaptation is not measured; unsupervised "
        "fits have one view of an input, where the paper has a weak and a strong one"
    },
)
def atlas(
    on: Problem,
    *,
    setting: Setting = "supervised",
    per: Per | None = None,
    parts: Annotated[int, Field(ge=1)] | None = None,
    objective: str | None = None,
    objective_options: Mapping[str, Any] | None = None,
    forget: tuple[str, ...] = (),
    leave_out_own: bool | None = None,
    start: float = 0.0,
    rate: Annotated[float, Field(gt=0)] = 1e-3,
    weight_decay: Annotated[float, Field(ge=0)] = 0.1,
    schedule: Schedule | None = None,
    clip: Annotated[float, Field(gt=0)] | None = 1.0,
    penalty: Annotated[float, Field(ge=0)] = 0.0,
    norm: Annotated[float, Field(ge=1)] = 1.0,
    steps: Annotated[int, Field(ge=1)] = 200,
    passes: Annotated[int, Field(ge=1)] = 1,
    prefer: Mapping[str, float] | None = None,
    check_every: Annotated[int, Field(ge=1)] | None = None,
    threads: Annotated[int, Field(ge=1)] | None = None,
    lean: bool = False,
) -> Fitted:
    """Learn anisotropic scales of task vectors: ``theta = theta_0 + sum_t Lambda_t tau_t``.

    AdamW from 0, that is from the base, on one coefficient per expert and parameter tensor.

    - ``"supervised"``: cross-entropy, summed over the tasks; all experts take part (task addition).
      The loss of tasks in ``forget`` counts negatively (task negation, the others are the control).
      The paper wants the control to keep 95 % of its accuracy; here its loss is in the sum and nothing
      stops at 95 %, so hold its score against the base's.
    - ``"few_shot"``: the same on a few examples of new tasks, at a cosine rate; experts that were
      trained on the tasks themselves are left out.
    - ``"unsupervised"``: confident pseudo-labels, likewise without the tasks' own experts.
    - ``"training"``: as few-shot, with every tensor cut into random parts of its own coefficient each:
      the paper's parameter-efficient fine-tuning, K experts x tensors x parts numbers.

    Where released code (557d7fb) differs: it keeps the coefficients of the epoch with the best
    validation accuracy (``check_every`` does); parts of tensors of one shape share a mask, and tensors
    that are no matrices get no coefficient at all with parts, which we take for mistakes; for
    unsupervised fits see the objective ``pseudo_label``. Its epochs are steps here.

    Parameters
    ----------
    setting
        What the other options are by default.
    per, parts
        What has a coefficient: ``"tensor"``, or ``"block"`` with 16 parts for ``"training"``.
    objective, objective_options
        A registered objective in place of the setting's.
    forget
        Tasks to be unlearned.
    leave_out_own
        Experts of the tasks themselves take no part; what the setting says if None.
    start
        Of every coefficient.
    rate, weight_decay, schedule, clip
        Of AdamW; ``clip`` bounds the norm of the gradient.
    penalty, norm
        Factor and order of a norm of the coefficients that is added to the loss.
    steps, passes
        Optimiser steps, and batches of every task for each.
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
        All experts are left out; a preference for what is no task, or for none that is kept.
    """
    alone = setting != "supervised" if leave_out_own is None else leave_out_own
    own = tuple(dict.fromkeys(on.own[task] for task in on.tasks if task in on.own)) if alone else ()
    if set(forget) >= set(on.tasks):
        raise PlanError("atlas: every task is to be forgotten", hint="Name a task that is to be kept")
    weights = weights_of(prefer, on.tasks)
    if weights and not any(weight for task, weight in weights.items() if task not in forget):
        raise PlanError(
            "atlas: the preference gives no weight to a task that is kept", hint="Prefer one of them too"
        )
    where = per or ("block" if setting == "training" or (parts or 1) > 1 else "tensor")
    how = Descent(
        objective or ("pseudo_label" if setting == "unsupervised" else "cross_entropy"),
        objective_options or {},
        per=where,
        parts=parts or (16 if where == "block" else 1),
        parts_seed=on.seed,
        start=start,
        optimizer="adamw",
        rate=rate,
        weight_decay=weight_decay,
        schedule=schedule or ("constant" if setting == "supervised" else "cosine"),
        clip=clip,
        steps=steps,
        passes=passes,
        penalty=(penalty, norm) if penalty else None,
        weights=weights | {task: -weights.get(task, 1.0) for task in forget},
        skip=own,
        check_every=check_every,
        threads=threads,
        lean=lean,
    )
    return descend(on, how, name="atlas")
