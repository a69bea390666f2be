"""TSV-Merge: the leading singular directions of every task, made orthonormal together."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.algebra import Chain, Scalar, chain, mean
from taskloom.algebra import scale as scaled
from taskloom.algebra.directions import Duplicates, whiten
from taskloom.algebra.spectral import is_matrix
from taskloom.registry import register


@register(
    "merge",
    paper="Gargiulo et al., Task Singular Vectors, CVPR 2025, section 4 and algorithm 1 (TSV-M)",
    needs=("base", "experts"),
)
def tsv_merge(
    *,
    scale: Scalar = 1.0,
    skip: Sequence[str] = ("text_projection",),
    duplicates: Duplicates = "refuse",
) -> Chain:
    """Whiten the leading singular vectors of all tasks, matrix by matrix, and add them up.

    Of every task vector of a matrix the ``int(min(rows, columns) / K)`` leading singular triplets are
    kept; the left vectors of all K tasks, and the right ones, are replaced by the closest orthonormal
    ones. Other tensors, and matrices whose name contains a part named in ``skip``, get the mean task
    vector: the released code skips CLIP's ``text_projection``; language models also want
    ``embed_tokens`` and ``lm_head`` here. Then ``theta = theta_0 + scale * delta``.

    Equal experts make the whitening add a direction that none of them has, at full weight; they are
    refused, or share their directions with ``duplicates="share"``, which gives them the weight of
    one. Paper and released code do not look for them, and keep directions beyond a task vector's
    numerical rank, which are arbitrary; we drop those. A matrix with a side shorter than K keeps
    nothing in the released code; here it gets the mean. Singular vectors come from float64 Gram
    matrices, exact for float32 weights to about 1e-6 of the largest entry.

    Equation
    --------
    τₖ ≈ Uₖ Sₖ Vₖᵀ, the leading int(min(rows, columns) / K) triplets, matrix by matrix
    θ = θ₀ + λ U⊥ diag(S₁ … S_K) V⊥ᵀ,   U⊥ the orthonormal matrix closest to [U₁ … U_K],   V⊥ likewise

    When to use
    -----------
    One model for several tasks from full fine-tunes, without data.

    When not
    --------
    Nearly equal experts; large vocabularies that are not named in ``skip``.
    """
    return chain(
        whiten(duplicates),
        scaled(scale),
        otherwise=chain(mean(), scaled(scale)),
        only=is_matrix(skip),
    )
