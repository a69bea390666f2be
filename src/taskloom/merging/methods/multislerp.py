"""Multi-SLERP: the mean direction of several experts times their mean length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Weights, chain
from taskloom.algebra.sphere import mean_direction
from taskloom.registry import register


@register(
    "merge",
    paper="Goddard, Multi-SLERP, goddard.blog 2024 (released in mergekit); no paper",
    needs=("experts",),
)
def multislerp(
    *,
    weights: Weights | None = None,
    normalize: bool = True,
    space: Literal["delta", "weight"] = "delta",
    floor: Annotated[float, Field(ge=0)] = 1e-8,
) -> Chain:
    """Average directions and lengths of the task vectors apart, per tensor.

    With unit vectors u_k, lengths l_k and weights w_k: ``theta_0 + M / |M| * sum_k w_k l_k``,
    ``M = sum_k w_k u_k``. The released code also projects the u_k to the tangent space at M and
    averages there; as M is their mean by the same weights, that mean is 0 and changes nothing, so we
    leave it out.

    ``space="weight"`` takes the models themselves and needs no base. Where |M| is below ``floor`` the
    vectors of two experts are averaged plainly; of more, refused, unless all are 0, which mergekit
    refuses too.

    Equation
    --------
    u = Σₖ wₖ τₖ / ‖τₖ‖,   θ = θ₀ + (u / ‖u‖) Σₖ wₖ ‖τₖ‖,   tensor by tensor

    When to use
    -----------
    Task vectors that are to keep their length while their directions are averaged.

    When not
    --------
    Opposite task vectors, which have no mean direction.
    """
    return chain(mean_direction(weights, normalize=normalize, floor=floor), space=space)
