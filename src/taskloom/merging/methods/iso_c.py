"""Iso-C: the summed task vectors with a flat spectrum."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.algebra import Chain, Scalar, chain, mean
from taskloom.algebra import scale as scaled
from taskloom.algebra.directions import flatten
from taskloom.algebra.spectral import is_matrix
from taskloom.registry import register


@register(
    "merge",
    paper="Marczak et al., No Task Left Behind, ICML 2025, section 4.1 (Iso-C)",
    needs=("base", "experts"),
)
def iso_c(
    *,
    scale: Scalar = 1.0,
    skip: Sequence[str] = ("text_projection",),
) -> Chain:
    """Give every singular direction of the summed task vectors the same weight, matrix by matrix.

    ``delta = s U V^T`` with U, V the singular vectors of the sum and s the mean of its singular
    values. Other tensors, and matrices whose name contains a part named in ``skip``, get the mean task
    vector (the released code skips CLIP's ``text_projection``; language models also want
    ``embed_tokens`` and ``lm_head`` here). Then ``theta = theta_0 + scale * delta``.

    Paper and released code take all min(rows, columns) directions. Where the sum has a lower rank, as
    with LoRA experts, those beyond it are arbitrary and would get the full weight s; here directions
    and mean are of the numerical rank only, which leaves the sum of singular values what it was.

    Equation
    --------
    Σₖ τₖ = U S Vᵀ,   θ = θ₀ + λ s̄ U Vᵀ,   s̄ = mean of S;   matrix by matrix

    When to use
    -----------
    One model for several tasks from full fine-tunes, without data.

    When not
    --------
    Models whose skill is not in matrices; large vocabularies that are not named in ``skip``.
    """
    return chain(flatten(), scaled(scale), otherwise=chain(mean(), scaled(scale)), only=is_matrix(skip))
