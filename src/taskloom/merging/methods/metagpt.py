"""MetaGPT: the scale of every task vector in closed form."""

from __future__ import annotations

from typing import Literal

from taskloom.algebra import Chain, Scalar, chain, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.size import weigh_by_size
from taskloom.registry import register


@register(
    "merge",
    paper="Zhou et al., MetaGPT: merging LLMs using model exclusive task arithmetic, EMNLP 2024, eq. 12",
    needs=("base", "experts"),
    systems=("MetaGPT (model exclusive task arithmetic)",),
)
def metagpt(*, scope: Literal["model", "tensor"] = "model", scale: Scalar = 1.0) -> Chain:
    """Weigh task vectors by their share of the squared norms, and add them up.

    ``theta = theta_0 + scale * sum_t l_t tau_t`` with ``l_t = |tau_t|^2 / sum_k |tau_k|^2`` over the
    whole model. It minimises ``sum_t |tau_t|^2 |sum_k l_k tau_k - tau_t|^2``, be the task vectors
    orthogonal or not. The longer an expert moved, the more it counts: one ten times as long takes 0.99.

    No official code was found; a third party's takes the norms of the whole model, too.
    ``scope="tensor"`` takes them per tensor, which the paper does not do.

    Equation
    --------
    θ = θ₀ + λ Σₖ lₖ τₖ,   lₖ = ‖τₖ‖² / Σⱼ ‖τⱼ‖² over the whole model

    When to use
    -----------
    No data and no wish to search for a scale; experts that were trained alike.

    When not
    --------
    Experts whose changes have unlike lengths: the longest takes nearly all.
    """
    return chain(weigh_by_size(2.0, scope), total(), scaled(scale))
