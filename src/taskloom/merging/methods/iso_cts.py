"""Iso-CTS: a flat spectrum over common and task-specific directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, chain, mean
from taskloom.algebra import scale as scaled
from taskloom.algebra.directions import Duplicates, flatten_common
from taskloom.algebra.spectral import is_matrix
from taskloom.registry import register


@register(
    "merge",
    paper="Marczak et al., No Task Left Behind, ICML 2025, section 4.2 and algorithm 2 (Iso-CTS)",
    needs=("base", "experts"),
)
def iso_cts(
    *,
    common: Annotated[float, Field(ge=0, le=1)] = 0.8,
    scale: Scalar = 1.0,
    skip: Sequence[str] = ("text_projection",),
    duplicates: Duplicates = "refuse",
) -> Chain:
    """Flatten the spectrum of the sum's leading directions and of every task's own, matrix by matrix.

    The share ``common`` of the directions is the sum's; the rest is shared out to the tasks, which
    fill it with their leading directions once the common left ones are projected out. All are made
    orthonormal and get the mean of their singular values. If no direction is left for the tasks
    (``round(.)`` to 0) this is Iso-C. Other tensors and ``skip`` as in ``iso_c``.

    Paper and released code agree; neither looks for equal experts, whose task-specific directions
    would get arbitrary companions at full weight: refused, or shared with ``duplicates="share"``, as
    in ``tsv_merge``. Directions beyond the numerical rank are left out, as in ``iso_c``; and where
    rounding up would give the tasks more directions than there are, they get as many as there are.

    Equation
    --------
    U_c: the leading share `common` of Σₖ τₖ;   Uₖ: the leading directions of (I − U_c U_cᵀ) τₖ
    θ = θ₀ + λ s̄ U⊥ V⊥ᵀ,   U⊥ the orthonormal matrix closest to [U₁ … U_K U_c],   V⊥ likewise

    When to use
    -----------
    As ``iso_c``, with many tasks.

    When not
    --------
    Few tasks or small matrices, where hardly a direction is left for the tasks; equal experts.
    """
    return chain(
        flatten_common(common, duplicates),
        scaled(scale),
        otherwise=chain(mean(), scaled(scale)),
        only=is_matrix(skip),
    )
