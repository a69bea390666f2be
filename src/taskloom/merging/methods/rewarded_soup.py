"""The rewarded soup: an average of experts for different rewards, at one point of the simplex."""

from __future__ import annotations

from taskloom.algebra import Chain, Weights, chain, mean
from taskloom.registry import register


@register(
    "merge",
    paper="Rame et al., Rewarded soups, NeurIPS 2023, section 2.2",
    needs=("experts", "validation"),
    partly={
        "Rewarded soups": "the sweep, its Pareto front as table and picture, the choice by preference; "
        "training with several rewards at once, to compare with, is not there"
    },
)
def rewarded_soup(*, preference: Weights | None = None) -> Chain:
    """Average the experts at the weights that a preference among their rewards leads to.

    ``theta = sum_t w_t theta_t`` with weights that sum up to 1. `taskloom.rewarded_soup` scores a grid
    of weights and finds the Pareto front; its ``best`` mixture's weights are the ``preference`` here.

    The paper interpolates two experts at 11 values and takes weights equal to the preference, or the
    best on validation. Released code interpolates the factors of LoRA adapters apart from each other,
    which is another model; we average whole weights.

    Parameters
    ----------
    preference
        Weight of each expert, in pool order or by name; equal if None.

    Equation
    --------
    θ = Σₖ wₖ θₖ,   Σₖ wₖ = 1

    When to use
    -----------
    Experts tuned from one start for different rewards, where the preference is known only later.

    When not
    --------
    Experts from different starts; tasks with heads of their own, where a preference means nothing.
    """
    return chain(mean(weights=preference), space="weight")
