"""TIES: trim, elect sign, disjoint merge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Scope, Weights, chain, elect, keep, mean
from taskloom.algebra import scale as scaled
from taskloom.registry import register

Variant = Literal["paper", "released", "mergekit"]


@register(
    "merge",
    paper="Yadav et al., TIES-Merging, NeurIPS 2023, section 3 and algorithm 1",
    needs=("base", "experts"),
)
def ties(
    *,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 1.0,
    weights: Weights | None = None,
    scope: Scope = "model",
    variant: Variant = "paper",
) -> Chain:
    """Keep each expert's largest changes, elect a sign per entry, average those that agree.

    Trim: the ``density`` largest magnitudes of each task vector survive. Elect: the sign of the sum
    over experts. Merge: the mean of the surviving entries with the elected sign. Then
    ``theta = theta_0 + scale * tau``.

    - ``variant="paper"`` trims over the whole model; an exact tie of the vote gives 0.
    - ``"released"`` (the authors' code) keeps one entry more per expert, and lets a tied vote take
      the sign most entries elected, which costs one more read.
    - ``"mergekit"`` multiplies by ``weights`` before the vote, counts a tie as positive, and is meant
      to be used with ``scope="tensor"``; in the other variants ``weights`` enter the mean only.

    Equation
    --------
    τ̂ₖ = τₖ on the share d of largest magnitudes, else 0;   g = sign Σₖ τ̂ₖ
    θ = θ₀ + λ mean{τ̂ₖ : sign τ̂ₖ = g}, entry by entry

    When to use
    -----------
    One model for several tasks whose changes conflict, without data.

    When not
    --------
    LoRA experts (``knots``); layers with small changes, which a trim over the whole model may empty.
    """
    released = variant == "released"
    trim = keep(density, scope, extra=1 if released else 0) if density < 1 else chain()
    if variant == "mergekit":
        return chain(trim, elect("plus", weights), mean("kept", weights), scaled(scale))
    vote = elect("majority" if released else "zero")
    return chain(trim, vote, mean("kept", weights), scaled(scale))
