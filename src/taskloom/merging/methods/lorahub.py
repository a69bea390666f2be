"""LoraHub: weighted sums of the factors of adapters."""

from __future__ import annotations

from taskloom.algebra import Chain, Weights, chain, mean, total, weigh
from taskloom.algebra.add_factors import add_factors
from taskloom.registry import register


@register(
    "merge",
    paper="Huang et al., LoraHub, COLM 2024, section 3.2",
    needs=("base", "adapters", "validation"),
)
def lorahub(*, weights: Weights | None = None) -> Chain:
    """Add up LoRA adapters' factors A, and apart from them their factors B, with one weight each.

    The product of the sums is the change: it keeps the adapters' rank, and holds ``w_i w_j B_i A_j`` for
    every pair, so that half of one adapter's weight is a quarter of its change. The weights are what
    ``taskloom fit lorahub`` searches for on a few labelled examples.

    Released code takes the first adapter's alpha/r for all; here each one's own is part of its B, which
    is the same where they are equal. It multiplies tensors that are stored whole by the weights, too;
    here their changes from the base are. An adapter that leaves a module as it is adds nothing to it.

    Parameters
    ----------
    weights
        One number per expert, in pool order or by name; 1/K each if None.

    Equation
    --------
    A = Σₖ wₖ Aₖ,   B = Σₖ wₖ Bₖ
    θ = θ₀ + B A

    When to use
    -----------
    A library of LoRA adapters of one rank, a new task with a handful of labels.

    When not
    --------
    Adapters of unlike ranks, full fine-tunes; a target that no mixture of the library comes near.
    """
    rest = chain(mean()) if weights is None else chain(weigh(weights), total())
    return chain(add_factors(weights), space="factors", otherwise=rest)
