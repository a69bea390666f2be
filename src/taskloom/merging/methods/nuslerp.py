"""NuSLERP: spherical interpolation of two task vectors or two models, by their weights."""

from __future__ import annotations

from typing import Literal

from taskloom.algebra import Chain, chain
from taskloom.algebra.sphere import Whole, arc
from taskloom.registry import register


@register(
    "merge",
    paper="mergekit (Goddard et al., EMNLP industry track 2024), nuslerp; after Shoemake 1985",
    needs=("experts",),
)
def nuslerp(
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    scope: Whole = "tensor",
    space: Literal["delta", "weight"] = "delta",
    variant: Literal["smooth", "mergekit"] = "smooth",
) -> Chain:
    """Interpolate along the great circle between two task vectors, ``t = w_2 / (w_1 + w_2)``.

    ``space="weight"`` takes the models themselves and needs no base. ``scope`` says what is one
    vector: a tensor, each row along the last axis (mergekit's ``nuslerp_flatten: false``) or each
    column along the first (its ``nuslerp_row_wise: true``). There is no paper; the rule is the
    released code's. Parallel and opposite vectors are interpolated linearly.

    A vector of 0 has no direction: we interpolate linearly, ``variant="mergekit"`` puts it at a right
    angle to the other, so that the other is multiplied by ``sin(t pi / 2)`` instead of t.

    Raises
    ------
    PlanError
        Weights that sum to 0; mergekit takes t = 1/2 then.

    Equation
    --------
    φ = angle(τ₁, τ₂),   t = w₂ / (w₁ + w₂)
    θ = θ₀ + [sin((1 − t)φ) τ₁ + sin(tφ) τ₂] / sin φ

    When to use
    -----------
    Exactly two experts, one weighted against the other, whose task vectors are to keep their length.

    When not
    --------
    More than two experts (``multislerp``, ``karcher``).
    """
    total = weights[0] + weights[1]
    if abs(total) < 1e-6:
        raise ValueError(f"the weights {list(weights)} sum to 0, so they name no point of the arc")
    straight = variant == "smooth"
    step = arc(
        weights[1] / total,
        scope,
        floor=0.0 if straight else 1e-7,
        zero="linear" if straight else "right angle",
    )
    return chain(step, space=space, experts=(2, 2))
