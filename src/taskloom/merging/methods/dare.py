"""DARE: drop and rescale, before any merge."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Scope, Weights, chain, drop
from taskloom.merging.methods.task_arithmetic import task_arithmetic
from taskloom.merging.methods.ties import ties
from taskloom.registry import register

_PAPER = "Yu et al., Language models are Super Mario, ICML 2024, section 3.2"
Rate = Annotated[float, Field(ge=0, le=1)]


@register("merge", paper=f"{_PAPER}, with task arithmetic", needs=("base", "experts", "seed"))
def dare_linear(
    *,
    p: Rate = 0.9,
    scale: Scalar = 0.3,
    weights: Weights | None = None,
    rescale: bool = True,
    seed: int = 0,
) -> Chain:
    """Drop each change with probability ``p``, rescale the rest by 1/(1-p), then add them up.

    Every expert has its own mask. The paper always rescales; the released script rescales only when
    told to (``rescale=False`` here), and mergekit scales to the L1 norm before the drop instead.

    Equation
    --------
    τ̂ₖ = bₖ ⊙ τₖ / (1 − p),   bₖ = 0 with probability p, entry by entry
    θ = θ₀ + λ Σₖ wₖ τ̂ₖ

    When to use
    -----------
    Large models with small, redundant changes; task vectors that are to be stored sparse.

    When not
    --------
    Large changes, or small models at p = 0.9: the result then depends on the seed.
    """
    return chain(drop(p, rescale=rescale, seed=seed), task_arithmetic(scale=scale, weights=weights))


@register("merge", paper=f"{_PAPER}, with TIES", needs=("base", "experts", "seed"))
def dare_ties(
    *,
    p: Rate = 0.9,
    density: Annotated[float, Field(ge=0, le=1)] = 1.0,
    scale: Scalar = 1.0,
    weights: Weights | None = None,
    scope: Scope = "tensor",
    rescale: bool = True,
    seed: int = 0,
) -> Chain:
    """Drop and rescale as DARE does, then elect signs and merge as TIES does.

    ``density`` below 1 trims what survived the drop, as the paper's script does with its TIES
    merger (its trim keeps 0.2); at 1 nothing more is trimmed, as in mergekit's ``dare_ties``.

    Equation
    --------
    τ̂ₖ = bₖ ⊙ τₖ / (1 − p),   g = sign Σₖ τ̂ₖ
    θ = θ₀ + λ mean{τ̂ₖ : sign τ̂ₖ = g}, entry by entry

    When to use
    -----------
    As ``dare_linear``, where experts disagree about signs.

    When not
    --------
    As ``dare_linear``; at p = 0.9 few entries meet another expert's, so there is little to elect.
    """
    head = drop(p, rescale=rescale, seed=seed)
    return chain(head, ties(density=density, scale=scale, weights=weights, scope=scope))
