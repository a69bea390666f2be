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
    """
    return chain(mean(weights=weights), space="weight")
