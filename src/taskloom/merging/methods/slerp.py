"""SLERP: two models, along the great circle between them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, chain, interpolate_sphere
from taskloom.registry import register


@register(
    "merge",
    paper="Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985, section 3.3",
    needs=("experts",),
)
def slerp(*, t: Scalar = 0.5, threshold: Annotated[float, Field(gt=0, le=1)] = 0.9995) -> Chain:
    """Interpolate two experts on the sphere, tensor by tensor; ``t = 0`` is the first.

    Applied to whole weights, as mergekit and FusionBench do; above ``|cos| = threshold`` it is plain
    linear interpolation, which for two fine-tunes of one base is nearly everywhere.

    Equation
    --------
    φ = angle(θ₁, θ₂)
    θ = [sin((1 − t)φ) θ₁ + sin(tφ) θ₂] / sin φ

    When to use
    -----------
    Exactly two models of one architecture that lie far apart.

    When not
    --------
    Fine-tunes of one base, which are nearly parallel: it is the line between them; more than two models.
    """
    return chain(interpolate_sphere(t, threshold=threshold), space="weight", experts=(2, 2))
