"""DELLA: drop by rank of magnitude, then merge as task arithmetic or TIES do."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Weights, chain, elect, mean, optionally, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.rank import drop_by_rank
from taskloom.registry import register

_PAPER = "Deep, Bhardwaj and Poria, DELLA-Merging, arXiv 2406.11617, section 3"
Share = Annotated[float, Field(ge=0, le=1)]


@register("merge", paper=f"{_PAPER} (MagPrune, elect, fuse)", needs=("base", "experts", "seed"))
def della(
    *,
    density: Share = 0.7,
    epsilon: Annotated[float, Field(ge=0)] = 0.07,
    scale: Scalar = 1.1,
    weights: Weights | None = None,
    rescale: bool = True,
    seed: int = 0,
) -> Chain:
    """Drop small changes of a row more often than large ones, elect signs, average what agrees.

    Entries of a row (last axis) are kept with probabilities that rise linearly with the rank of their
    magnitude, from ``density - epsilon`` to ``density + epsilon``; survivors are divided by their own
    probability. Signs are elected by the weighted sum (a tie counts as positive), entries that agree
    are averaged by weight, times ``scale``.

    Defaults are those of the released README (drop 0.3, window 0.14 = 2 epsilon, scale 1.1).
    mergekit's epsilon is half the window too; it rescales to the L1 norm of the tensor instead.

    Equation
    --------
    πᵣ = d − ε + 2ε (r − 1) / (n − 1) for the entry of rank r by |τₖ| in its row;   d = density
    τ̂ₖ = bₖ ⊙ τₖ / π,   bₖ = 1 with probability π;   g = sign Σₖ wₖ τ̂ₖ
    θ = θ₀ + λ Σ wₖ τ̂ₖ / Σ wₖ over the k with sign τ̂ₖ = g

    When to use
    -----------
    As DARE, where the size of a change says something about its worth.

    When not
    --------
    Where the result must not depend on a seed.
    """
    head = drop_by_rank(density, epsilon, rescale=rescale, seed=seed)
    return chain(head, elect("plus", weights), mean("kept", weights), scaled(scale))


@register("merge", paper=f"{_PAPER}, without election", needs=("base", "experts", "seed"))
def della_linear(
    *,
    density: Share = 0.7,
    epsilon: Annotated[float, Field(ge=0)] = 0.07,
    scale: Scalar = 0.3,
    weights: Weights | None = None,
    rescale: bool = True,
    seed: int = 0,
) -> Chain:
    """Drop small changes of a row more often than large ones, then add up as task arithmetic does.

    The drop is that of ``della``. The released ``della_noelect`` still elects signs; this does not, as
    mergekit's ``della_linear`` does not.

    Equation
    --------
    πᵣ = d − ε + 2ε (r − 1) / (n − 1),   τ̂ₖ = bₖ ⊙ τₖ / π as in della
    θ = θ₀ + λ Σₖ wₖ τ̂ₖ

    When to use
    -----------
    As ``della``, where experts hardly disagree about signs.

    When not
    --------
    Where the result must not depend on a seed.
    """
    head = drop_by_rank(density, epsilon, rescale=rescale, seed=seed)
    return chain(head, optionally(weights), total(), scaled(scale))
