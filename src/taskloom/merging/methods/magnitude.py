"""Magnitude pruning of task vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Scope, Weights, chain, keep, optionally, total
from taskloom.algebra import scale as scaled
from taskloom.registry import register


@register(
    "merge",
    paper="Yu et al., Language models are Super Mario, ICML 2024, section 4 (the baseline MP)",
    needs=("base", "experts"),
)
def magnitude_pruning(
    *,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 1.0,
    weights: Weights | None = None,
    scope: Scope = "tensor",
) -> Chain:
    """Keep each expert's largest changes and add them up; with one expert, prune its task vector.

    ``int(density * n)`` changes of the n of a tensor survive, unscaled. The paper prunes one expert per
    tensor, and so does its released code (MergeLM), which drops ``int((1 - density) * n)`` and every
    change as small as the last of them; we keep exactly that many, the lower index first among equals.

    Equation
    --------
    θ = θ₀ + λ Σₖ wₖ top(τₖ),   top keeps the int(d · n) largest magnitudes;   d = density

    When to use
    -----------
    To prune the task vector of one expert; as the baseline of the methods that prune.

    When not
    --------
    Many experts at scale 1, whose sum is too long.
    """
    return chain(keep(density, scope), optionally(weights), total(), scaled(scale))
