"""Reinforced Agent Merging: keep what one expert changed alone, average what several changed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain, mean
from taskloom.algebra.threshold import beyond, favour_unique
from taskloom.registry import register

_PAPER = "Reinforced Agent Merging, arXiv 2601.13572"
Size = Annotated[float, Field(ge=0)]


@register("merge", paper=_PAPER, needs=("base", "experts"))
def ram(*, epsilon: Size = 1e-5) -> Chain:
    """Average every entry over the experts that changed it by more than ``epsilon``.

    An entry that one expert changed is taken over whole; what nobody changed stays the base's.
    Written after mergekit's code; the paper itself was not at hand.

    Equation
    --------
    θ = θ₀ + mean{τₖ : |τₖ| > ε}, entry by entry

    When to use
    -----------
    Experts that changed few entries each, as reinforcement learning does.

    When not
    --------
    Ordinary fine-tunes, in which every entry has changed: it is the average then.
    """
    return chain(beyond(epsilon), mean("kept"))


@register("merge", paper=f"{_PAPER} (tensor-local RAM+)", needs=("base", "experts"))
def ramplus_tl(*, epsilon: Size = 1e-5, r: Size = 0.1, alpha: Size = 0.2) -> Chain:
    """As ``ram``, with what an expert changed alone enlarged by how much it shares elsewhere.

    Per tensor and expert: ``1 + r * clamp(shared / unique, 0, alpha)``, the numbers of entries that
    others changed too, and that only it changed. Written after mergekit's code.

    Equation
    --------
    fₖ = 1 + r · clamp(shared entries / own entries, 0, α),   tensor by tensor
    θ = θ₀ + mean{τₖ : |τₖ| > ε}, times fₖ where only k changed the entry

    When to use
    -----------
    As ``ram``.

    When not
    --------
    As ``ram``.
    """
    return chain(beyond(epsilon), favour_unique(r, alpha), mean("kept"))
