"""NearSwap: take over what differs little, move a little where much differs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain
from taskloom.algebra.threshold import clip
from taskloom.registry import register


@register(
    "merge",
    paper="alchemonaut, QuartetAnemoi model card (NearSwap), 2024; no paper",
    needs=("base", "experts"),
)
def nearswap(*, t: Annotated[float, Field(ge=0)] = 1e-4) -> Chain:
    """Interpolate towards one expert by ``min(1, t / |tau|)`` in every entry.

    That is the task vector clipped to [-t, t]: entries that differ by less than t are the expert's,
    the others move by t. mergekit divides by at least 1e-6, which differs for t below that only.

    Equation
    --------
    θ = θ₀ + clip(τ, −t, t)

    When to use
    -----------
    The small differences of one expert, whole; of the large ones only a step.

    When not
    --------
    Several experts; skills that need large changes.
    """
    return chain(clip(t), experts=(1, 1))
