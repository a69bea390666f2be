"""CoPA-Merging (RobustMerge): pruned factors of adapters, rank by rank."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain, mean
from taskloom.algebra.complement import complement
from taskloom.registry import register

Share = Annotated[float, Field(gt=0, le=1)]


@register(
    "merge",
    paper="Zeng et al., Parameter Efficient Merging with Complementary Parameter Adaptation, "
    "NeurIPS 2025 (arXiv 2502.17159), algorithm 1",
    needs=("base", "adapters"),
    partly={
        "CoPA-Merging": "the merge of adapters is there; the benchmark of unseen multimodal tasks is not"
    },
)
def copa_merging(*, density: Share = 0.2, lifted: Share = 0.2, scale: float = 2.0) -> Chain:
    """Prune the factors of LoRA adapters, scale up rows that lost much, add A and average B.

    Both factors keep the ``density`` share of largest magnitudes. ``s_k[j]``, what row j of A_k had
    by what it kept, is raised to its upper ``lifted`` quantile where lower. ``A = scale sum A_k``;
    ``B[:, j] = scale sum_k s_k[j] B_k[:, j] / sum_k s_k[j]``. Adapters of one rank on the same
    modules; tensors that they store whole are averaged. There is no rule for full checkpoints.

    This is the rule of the released code (RobustMerge, where 2, 0.2 and 0.2 are written into it); the
    paper's algorithm 1 is said to merge the products B S A, and was not read. The sum of A makes N equal
    adapters count N scale^2 times. Where pruning leaves nothing of a row the released code divides by
    0; here that row of that adapter takes no part, and alpha/r is part of B.

    Equation
    --------
    A = λ Σₖ Âₖ,   B[:, j] = λ Σₖ sₖ[j] B̂ₖ[:, j] / Σₖ sₖ[j]
    sₖ[j] = ‖Aₖ[j]‖₁ / ‖Âₖ[j]‖₁, raised to its upper quantile;   Â, B̂ pruned to the share `density`

    When to use
    -----------
    LoRA adapters of one rank on the same modules, to be merged into one adapter.

    When not
    --------
    Full fine-tunes, or adapters of unlike ranks; many adapters at the default scale, as A is a sum and
    grows with their number.
    """
    return chain(complement(density, lifted, scale), space="factors", otherwise=chain(mean()))
