"""Steps that settle conflicts between experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom import algebra
from taskloom.algebra import Chain, Weights, chain, parts
from taskloom.algebra import compete as competing
from taskloom.algebra.resolve import Tie
from taskloom.merging.methods.tall_masks import Over, Thresholds
from taskloom.merging.methods.tall_masks import parts as masks
from taskloom.registry import register


@register("step")
def elect(*, tie: Tie = "zero", weights: Weights | None = None) -> Chain:
    """Elect a sign per entry by the sum over experts, and zero what disagrees, as TIES does."""
    return chain(algebra.elect(tie, weights))


@register("step")
def tall_masks(
    *,
    threshold: Thresholds = 0.4,
    over: Over = "task_arithmetic",
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    variant: Literal["paper", "released"] = "paper",
) -> Chain:
    """Merge, and mark what serves each task: a shared row and one of factors per expert.

    What follows is ``consensus`` or ``take``.
    """
    return masks(threshold=threshold, over=over, density=density, variant=variant)


@register("step")
def elect_largest(*, sizes: parts.Sizes | None = "paper") -> Chain:
    """Elect a sign and the largest change of it, as EMR does: a shared row and factors per expert.

    What follows is ``consensus`` or ``take``.
    """
    return chain(parts.elect_largest(sizes))


@register("step")
def consensus(*, least: Annotated[int, Field(ge=0)] = 2) -> Chain:
    """Leave of the shared row what at least so many experts use."""
    return chain(parts.consensus(least), experts=(max(1, least), None))


@register("step")
def take(*, task: str | None = None) -> Chain:
    """Leave what one task uses of the shared row, or the shared row itself."""
    return chain(parts.take(task))


@register("step")
def compete(
    *,
    ratio: Annotated[float, Field(gt=0, le=1)],
    clamp: Annotated[float, Field(ge=0, lt=0.5)] = 1e-4,
    weights: Weights | None = None,
    cross: competing.Cross = "released",
) -> Chain:
    """Average entries by what they score within and across tasks, as PCB-Merging does: one row."""
    return chain(competing.compete(ratio, clamp, weights, cross))
