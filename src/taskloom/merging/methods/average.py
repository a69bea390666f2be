"""Weight averaging, the uniform soup."""

from __future__ import annotations

from taskloom.algebra import Chain, Weights, chain, mean
from taskloom.registry import register


@register(
    "merge",
    paper="Wortsman et al., Model soups, ICML 2022, section 2 (uniform soup)",
    needs=("experts",),
)
def average(*, weights: Weights | None = None) -> Chain:
    """Average the experts' weights; no base takes part.

    ``theta = sum_t w_t theta_t / sum_t w_t``, equal weights unless given.

    Paper and released code agree (a plain mean over every key of the state dict). We average floating
    point tensors only and copy integer ones. Heads are not part of the encoder and stay per task.

    Equation
    --------
    θ = Σₖ wₖ θₖ / Σₖ wₖ

    When to use
    -----------
    Fine-tunes of one task from one start; as the baseline that any other method has to beat.

    When not
    --------
    Experts of many different tasks, of which each counts 1/K only; ingredients of unlike quality
    (``greedy_soup`` leaves bad ones out).
    """
    return chain(mean(weights=weights), space="weight")
