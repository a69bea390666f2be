"""Steps that make one row of all experts, and scale it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from taskloom import algebra
from taskloom.algebra import Chain, Weights, chain
from taskloom.algebra import fuse as fusing
from taskloom.algebra import stock as stocking
from taskloom.registry import register


@register("step")
def total() -> Chain:
    """Add the experts up."""
    return chain(algebra.total())


@register("step")
def mean(
    *,
    of: Literal["all", "kept"] = "all",
    weights: Weights | None = None,
    normalize: bool = True,
) -> Chain:
    """Average the experts, over all or over those whose entry is not zero."""
    return chain(algebra.mean(of, weights, normalize=normalize))


@register("step")
def scale(*, factor: FiniteFloat) -> Chain:
    """Multiply by one number."""
    return chain(algebra.scale(factor))


@register("step")
def interpolate_sphere(*, t: FiniteFloat) -> Chain:
    """Interpolate two experts on the sphere, each tensor as one vector."""
    return chain(algebra.interpolate_sphere(t), experts=(2, 2))


@register("step")
def fuse(*, share: Annotated[float, Field(ge=0, le=1)], rule: fusing.Rule = "paper") -> Chain:
    """Fuse by the variance of entries: select, calculate, erase, as SCE does."""
    return fusing.fuse(share, rule)


@register("step")
def stock(*, scope: Literal["tensor", "row"] = "tensor", clamp: bool = False) -> Chain:
    """Average, and go as far as the angle between the experts says, as Model Stock does."""
    return chain(stocking.stock(scope, clamp=clamp), experts=(2, None))
