"""Karcher mean: the mean direction on the sphere, times the mean length."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain, sphere
from taskloom.registry import register


@register(
    "merge",
    paper="Karcher, CPAM 1977 (Riemannian centre of mass); merging: arXiv 2603.04972",
    needs=("experts",),
)
def karcher(
    *,
    iterations: Annotated[int, Field(ge=0)] = 10,
    tolerance: Annotated[float, Field(gt=0)] = 1e-5,
    floor: Annotated[float, Field(ge=0)] = 0.0,
) -> Chain:
    """Find the point of the sphere nearest to all experts (squared angles), tensor by tensor.

    Each tensor of each expert is a unit vector; from their normalised mean, ``iterations`` steps along
    the exponential map of the mean tangent, fewer once that is shorter than ``tolerance``. The result
    gets the mean length of all experts. A tensor not longer than ``floor`` gives no direction
    (mergekit: its ``tol``), but counts in the mean length.

    Equation
    --------
    θ = mean‖θₖ‖ · argmin over unit u of Σₖ angle(u, θₖ)²,   tensor by tensor

    When to use
    -----------
    Models of one architecture that lie far apart, whose average would be too short.

    When not
    --------
    Fine-tunes of one base, which are nearly parallel: it is the plain average, at a higher price.
    """
    return chain(sphere.karcher(iterations, tolerance, floor=floor), space="weight")
