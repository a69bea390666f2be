"""Consensus merging: keep what more than one task uses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Scalar, chain
from taskloom.algebra import scale as scaled
from taskloom.algebra.parts import consensus as used
from taskloom.merging.methods.tall_masks import Thresholds, parts
from taskloom.registry import register

_PAPER = "Wang et al., Localizing task information, ICML 2024, section 4.3"
Least = Annotated[int, Field(ge=0)]


@register(
    "merge",
    paper=f"{_PAPER}, over task arithmetic",
    needs=("base", "experts"),
    systems=("TALL-masks / Consensus Merging",),
)
def consensus(*, least: Least = 2, threshold: Thresholds = 0.4, scale: Scalar = 0.3) -> Chain:
    """Add up task vectors, and drop the entries that fewer than ``least`` tasks use.

    Entries are used by the tasks whose ``tall_masks`` mark them. ``theta = theta_0 + scale * 1[count >=
    least] * sum_t tau_t``: 2 drops catastrophic and selfish entries, 1 catastrophic ones only, 0 is task
    arithmetic.

    The paper takes the thresholds that were best for each task and picks the scale from 0.05, 0.1, ...,
    1, both on validation, as its released code does; 0.4 and 0.3 are defaults of ours.

    Equation
    --------
    τ = Σₖ τₖ,   mₖ = 1[|τₖ| > t |τ − τₖ|],   t = threshold
    θ = θ₀ + λ 1[Σₖ mₖ ≥ least] ⊙ τ

    When to use
    -----------
    One model for many tasks, without data: what only one task uses is noise to the others.

    When not
    --------
    Two experts, of which little but the intersection is left.
    """
    masks = parts(threshold=threshold)
    return chain(masks, used(least), scaled(scale), experts=(max(1, least), None))


@register("merge", paper=f"{_PAPER}, over TIES", needs=("base", "experts"))
def consensus_ties(
    *,
    least: Least = 2,
    threshold: Thresholds = 0.4,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 0.3,
    variant: Literal["paper", "released"] = "paper",
) -> Chain:
    """Trim, elect and add up as TIES does, and drop the entries that fewer than ``least`` tasks use.

    As ``consensus``, with the sum of what TIES leaves in place of the sum of the task vectors; masks
    compare it with the whole task vectors, as in the released code. ``variant="released"`` trims and
    breaks ties as that code does (see ``ties``).

    Equation
    --------
    τ = Σ of what agrees after TIES' trim and election,   mₖ = 1[|τₖ| > t |τ − τₖ|],   t = threshold
    θ = θ₀ + λ 1[Σₖ mₖ ≥ least] ⊙ τ

    When to use
    -----------
    As ``consensus``, where signs conflict too.

    When not
    --------
    Two experts; where three reads are two too many.
    """
    masks = parts(threshold=threshold, over="ties", density=density, variant=variant)
    return chain(masks, used(least), scaled(scale), experts=(max(1, least), None))
