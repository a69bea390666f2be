"""CABS: conflict-aware and balanced sparsification."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Weights, chain, optionally, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.exclusive import Trailing, exclusive, exclusive_blocks
from taskloom.registry import register

_PAPER = "Yang et al., CABS, ICML 2025, section 3"


@register(
    "merge",
    paper=f"{_PAPER} (conflict-aware, balanced)",
    needs=("base", "experts"),
    partly={
        "CABS": "the method is there; at a density of 0.25 it was measured not better than merges "
        "pruned by magnitude or by TIES at 0.2 (docs/claims.md), and rows at equal density are missing"
    },
)
def cabs(
    *,
    n: Annotated[int, Field(ge=1)] = 64,
    m: Annotated[int, Field(ge=1)] = 256,
    scale: Scalar = 1.2,
    weights: Weights | None = None,
    trailing: Trailing = "drop",
) -> Chain:
    """Let experts choose in turn the n largest of every m changes, none twice, and add them up.

    The order of the experts matters: each chooses among the entries that none before it holds.
    ``theta = theta_0 + scale * sum_i w_i tau_i``.

    Defaults are those of the released script for 7B models (n 64, m 256, 1.2 each); its RoBERTa
    script has n 3, m 32 and a search for each weight. Both drop, or refuse, a last block that is shorter
    than m, as ``trailing="drop"`` does, tensors shorter than m included. The 7B script lets two experts
    overlap where n is at least m / 2; we do not, and the later expert has fewer. An entry that
    is 0 stays free for the next expert.

    Equation
    --------
    bₖ marks the n largest |τₖ| of every m entries, of those that no bⱼ, j < k, marks
    θ = θ₀ + λ Σₖ wₖ bₖ ⊙ τₖ

    When to use
    -----------
    Few experts of known importance, the most important first: none overwrites another.

    When not
    --------
    More than m / n experts, as nothing is left for the last ones; where the order must not matter.
    """
    return chain(exclusive_blocks(n, m, trailing), optionally(weights), total(), scaled(scale))


@register("merge", paper=f"{_PAPER} (conflict-aware, unstructured)", needs=("base", "experts"))
def cabs_unstructured(
    *,
    density: Annotated[float, Field(ge=0, le=1)] = 0.25,
    scale: Scalar = 1.2,
    weights: Weights | None = None,
) -> Chain:
    """Let experts choose in turn the largest changes of every tensor, none twice, and add them up.

    As ``cabs`` without blocks: each expert keeps ``int(density * n)`` of the n changes of a tensor. The
    released code keeps what is strictly above the next smaller magnitude, one fewer or, with equal
    magnitudes, less. One tensor at a time is in memory as a whole.

    Equation
    --------
    bₖ marks the int(d · n) largest |τₖ| of a tensor, of those that no bⱼ, j < k, marks;   d = density
    θ = θ₀ + λ Σₖ wₖ bₖ ⊙ τₖ

    When to use
    -----------
    As ``cabs``, where changes need not be spread evenly over a tensor.

    When not
    --------
    More than 1 / density experts; where the order must not matter.
    """
    return chain(exclusive(density), optionally(weights), total(), scaled(scale))
