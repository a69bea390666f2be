"""SCE: select, calculate, erase."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain
from taskloom.algebra.fuse import Rule, fuse
from taskloom.registry import register


@register(
    "merge",
    paper="Wan et al., FuseChat, arXiv 2408.07990, section 3.3 (SCE)",
    needs=("base", "experts"),
)
def sce(
    *,
    select_topk: Annotated[float, Field(ge=0, le=1)] = 0.1,
    variant: Rule = "paper",
) -> Chain:
    """Select the entries that vary most, weigh experts by their energy there, erase minorities.

    Per tensor: of the entries whose variance over the experts is not 0, the ``select_topk`` share of
    largest variance is kept (all entries at 1); an expert's weight is its share of the squared norm
    of these; entries against the sign of the sum are erased; what is left is averaged by weight.

    - ``variant="paper"`` merges selected entries only, as its text says; equal experts vary nowhere,
      so below 1 they give the base.
    - ``"released"`` (FuseAI's code) uses the selection for the weights only and merges all entries.
    - ``"mergekit"`` is the paper's, with equal weights for all experts wherever the mean squares of the
      changes sum up to less than 1e-6, which for the small changes of a large model is nearly
      everywhere.

    The default of ``select_topk`` is FuseChat's; released code and mergekit have 1.

    Equation
    --------
    M marks the share q of entries that vary most over experts;   wₖ = ‖M ⊙ τₖ‖² / Σⱼ ‖M ⊙ τⱼ‖²
    θ = θ₀ + Σ wₖ M ⊙ τₖ / Σ wₖ over the k with sign τₖ = sign Σⱼ τⱼ;   q = select_topk

    When to use
    -----------
    Models of one base whose differences are wanted and whose agreement is not.

    When not
    --------
    Experts that agree: what does not vary is dropped, equal experts give the base.
    """
    return fuse(select_topk, variant)
