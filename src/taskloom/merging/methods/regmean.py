"""RegMean: the linear layer whose outputs are nearest to all experts' outputs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Weights, chain, mean
from taskloom.algebra.informed import regress
from taskloom.registry import register


@register(
    "merge",
    paper="Jin et al., Dataless knowledge fusion by merging weights, ICLR 2023, eq. 2 and section 3.3",
    needs=("experts", "statistic gram"),
)
def regmean(
    *,
    weights: Weights | None = None,
    off_diagonal: Annotated[float, Field(ge=0, le=1)] = 0.9,
    ridge: Annotated[float, Field(ge=0)] = 1e-6,
) -> Chain:
    """Solve every linear layer for the least squares of its outputs on all experts' inputs.

    ``W^T = (sum_i c_i G_i)^-1 sum_i c_i G_i W_i^T`` with ``G_i = X_i^T X_i`` of the layer's inputs
    (statistic ``gram``, ``taskloom collect gram``). Everything else, biases, norms and embeddings, is
    averaged.

    Paper: entries off the diagonal of G are multiplied by 0.9 (0.1 for T5). Released code takes 0.1 in
    most of its scripts, and leaves them as they are on GLUE; it inverts without a ridge, which fails
    where there were fewer tokens than inputs. Ours adds ``ridge`` times the mean diagonal to every G,
    which leaves equal experts as they are. FusionBench has 0.95 for CLIP and 0.6 for GPT-2.

    Parameters
    ----------
    weights
        c, one per expert; equal if None.
    off_diagonal
        Factor of the Gram matrices' entries off the diagonal.
    ridge
        Added to their diagonals, relative to the mean of these.

    Equation
    --------
    Wᵀ = (Σₖ cₖ Gₖ)⁻¹ Σₖ cₖ Gₖ Wₖᵀ for every linear layer,   Gₖ = mean x xᵀ of its inputs in expert k

    When to use
    -----------
    Unlabeled inputs of every task; one model for experts of different tasks.

    When not
    --------
    No inputs; very wide layers, whose Gram matrices take (inputs)² numbers each.
    """
    step = regress(weights, off_diagonal=off_diagonal, ridge=ridge)
    return chain(step, space="weight", otherwise=chain(mean(weights=weights), space="weight"))
