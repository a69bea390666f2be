"""TALL-masks: what of a merged vector serves each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, chain, elect, keep, total
from taskloom.algebra.beside import beside
from taskloom.algebra.parts import take
from taskloom.algebra.parts import tall_masks as masked
from taskloom.registry import register

Over = Literal["task_arithmetic", "ties"]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Thresholds = Threshold | Mapping[str, Threshold]


@register(
    "merge",
    paper="Wang et al., Localizing task information, ICML 2024, section 4.1, eq. 4-5",
    needs=("base", "experts"),
)
def tall_masks(
    *,
    task: str | None = None,
    threshold: Thresholds = 0.4,
    over: Over = "task_arithmetic",
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    variant: Literal["paper", "released"] = "paper",
) -> Chain:
    """Merge once, and mark for every task which entries of the merged vector are its own.

    ``m_t = 1[|tau_t| > threshold * |tau - tau_t|]``; the model of a task is ``theta_0 + m_t tau``.
    ``task`` names the expert whose model is wanted; None gives ``theta_0 + tau``.

    ``tau`` is the sum of the task vectors, or ``over="ties"`` that of what TIES leaves (``density`` of
    each expert, elected signs, their sum). The paper picks the threshold of each task on validation from
    0.2, 0.3, ..., 0.6 (give them by name); 0.4 is the middle. Released code compares weights rather
    than task vectors, which differs by rounding; its TIES (``variant="released"``) keeps one entry more
    and gives tied votes the majority's sign. FusionBench mixes weights and vectors; we do not.

    ``taskloom.merge_parts`` keeps the parts of all tasks in one folder: a vector, and a bit per entry
    and task.

    Equation
    --------
    τ = Σⱼ τⱼ,   mₖ = 1[|τₖ| > t |τ − τₖ|],   t = threshold
    model of task k:  θ₀ + mₖ ⊙ τ

    When to use
    -----------
    The task of an input is known, and a bit per weight and task may be kept.

    When not
    --------
    One model for all tasks (``consensus``).
    """
    return chain(parts(threshold=threshold, over=over, density=density, variant=variant), take(task))


def parts(
    *,
    threshold: float | Mapping[str, float] = 0.4,
    over: Over = "task_arithmetic",
    density: float = 0.2,
    variant: Literal["paper", "released"] = "paper",
) -> Chain:
    """Return the chain that ends with the shared vector and the mask of every task."""
    if over == "task_arithmetic":
        return chain(beside(total()), masked(threshold))
    released = variant == "released"
    trim = keep(density, "model", extra=1 if released else 0) if density < 1 else chain()
    merged = chain(trim, elect("majority" if released else "zero"), total())
    return chain(beside(merged), masked(threshold))
