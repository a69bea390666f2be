"""PCB-Merging: parameters compete within their task and across tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Weights, chain
from taskloom.algebra import scale as scaled
from taskloom.algebra.compete import Cross, compete
from taskloom.registry import register


@register(
    "merge",
    paper="Du et al., Parameter competition balancing for model merging, NeurIPS 2024, section 3",
    needs=("base", "experts"),
    partly={
        "PCB-Merging": "the method is there, and the fit evolution searches its coefficients task by "
        "task; across tasks it was measured better than task arithmetic and not decided against TIES, "
        "across domains and out of them it was not measured"
    },
)
def pcb(
    *,
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.1,
    scale: Scalar = 1.2,
    weights: Weights | None = None,
    clamp: Annotated[float, Field(ge=0, lt=0.5)] = 1e-4,
    variant: Cross = "released",
) -> Chain:
    """Score entries within and across tasks, keep the ``ratio`` that score highest, average by score.

    Over the whole model: an entry's score is ``exp(K a^2) tanh(tau_i sum_j tau_j)``, a its magnitude
    scaled to [0, 1] after ``clamp`` of both ends. With s the scores, scaled to [0, 1], that are left:
    ``theta = theta_0 + scale * sum_i w_i s_i tau_i / sum_i s_i``.

    The rule is the released code's, as it runs: the largest entry is always clamped to the second
    largest, and the entry at the threshold gets nothing. The paper writes it with soft-maxes, whose
    constants cancel in the scaling; ratio is 0.1 in its function and 0.05 in its scripts.
    ``variant="vision"`` is the file for vision models (``clamp=0.01`` there), which sums scaled
    magnitudes with their signs inside tanh; ``pcb_ES.py``, which sums tanh over pairs, is not here.
    A row of equal scores gives the base, not 0/0.

    Equation
    --------
    Sₖ = exp(K aₖ²) ⊙ tanh(τₖ ⊙ Σⱼ τⱼ),   aₖ = |τ̃ₖ| scaled to [0, 1],   τ̃ₖ clamped at both ends
    sₖ = Sₖ scaled to [0, 1], 0 but for the `ratio` that score highest
    θ = θ₀ + λ Σₖ wₖ sₖ ⊙ τ̃ₖ / Σₖ sₖ

    When to use
    -----------
    One model for several tasks, no data, entries weighted one by one.

    When not
    --------
    Where five reads of every tensor are too many.
    """
    return chain(compete(ratio, clamp, weights, variant), scaled(scale))
