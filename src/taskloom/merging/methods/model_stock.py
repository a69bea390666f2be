"""Model Stock: from the base towards the mean, as far as the angle between the experts says."""

from __future__ import annotations

from typing import Literal

from taskloom.algebra import Chain, chain
from taskloom.algebra.stock import stock
from taskloom.registry import register


@register(
    "merge",
    paper="Jang, Yun and Han, Model Stock, ECCV 2024, section 4 and eq. 7",
    needs=("base", "experts"),
)
def model_stock(
    *,
    scope: Literal["tensor", "row"] = "tensor",
    clamp: bool = False,
    variant: Literal["paper", "mergekit"] = "paper",
) -> Chain:
    """Interpolate between the base and the mean of N experts by their mean cosine c.

    Per tensor ``theta = t mean(theta_k) + (1 - t) theta_0`` with ``t = N c / (1 + (N - 1) c)``, c the
    mean cosine of all pairs of task vectors. Where a task vector is 0, its cosines are 0. Where the
    denominator vanishes, t is 0.

    - ``scope="row"`` takes one t per row along the last axis (mergekit's ``filter_wise``).
    - ``clamp`` keeps t within [0, 1]. The paper merges fine-tunes of one task, whose angles are acute;
      experts of different tasks can be at an obtuse angle, and then t < 0 steps away from them.
    - ``variant="mergekit"`` counts products of two norms below 1e-6 as 1e-6, which shrinks t for
      small changes. FusionBench averages angles instead of cosines; we do not have that.

    Equation
    --------
    c = mean of cos(τⱼ, τₖ) over pairs,   t = K c / (1 + (K − 1) c)
    θ = t mean(θₖ) + (1 − t) θ₀,   tensor by tensor

    When to use
    -----------
    Two or a few fine-tunes of one task from one base, without data.

    When not
    --------
    Experts of different tasks: their cosines are near 0, so that the base comes out.
    """
    step = stock(scope, clamp=clamp, floor=1e-6 if variant == "mergekit" else 0.0)
    return chain(step, experts=(2, None))
