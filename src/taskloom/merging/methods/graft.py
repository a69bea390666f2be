"""Grafting: only the entries that carry a skill are taken over from an expert."""

from __future__ import annotations

from typing import Literal

from taskloom.algebra import Chain, Scalar, chain, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.informed import mask_mean
from taskloom.registry import register


@register(
    "merge",
    paper="Panigrahi et al., Task-specific skill localization in fine-tuned language models, ICML 2023, "
    "sections 2 and 6",
    needs=("base", "experts", "statistic graft"),
    systems=("Skill localization / model grafting",),
)
def graft(*, overlap: Literal["mean", "sum"] = "mean", scale: Scalar = 1.0) -> Chain:
    """Graft each expert's learned sparse region onto the base.

    ``theta = theta_0 + scale * sum_t m_t tau_t``, with each expert's mask ``m_t`` from the statistic
    ``graft`` (``taskloom collect graft``). Where regions overlap, the changes are averaged. Tensors that
    the masks leave out (embeddings, heads) stay the base's.

    One expert and its mask give the paper's grafted model. For several tasks the paper takes the union
    of the regions of a model tuned on all of them; experts of their own differ where regions meet, and
    ``overlap="sum"`` adds their changes up there instead of averaging.

    Parameters
    ----------
    overlap
        What becomes of an entry that several masks hold.
    scale
        Factor of what is grafted.

    Equation
    --------
    θ = θ₀ + λ Σₖ mₖ ⊙ τₖ;   where several mₖ are 1 the mean of their τₖ

    When to use
    -----------
    To find where in a model a skill sits, or to move it with as few changed weights as possible.

    When not
    --------
    No labels; experts whose skill is spread out, as it is after training by AdamW.
    """
    nothing = chain(total(), scaled(0.0))
    return chain(mask_mean(overlap), scaled(scale), otherwise=nothing)
