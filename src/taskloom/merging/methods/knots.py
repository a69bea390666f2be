"""KnOTS: TIES in the basis that the task vectors of a matrix share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Scope, chain, drop, elect, keep, mean
from taskloom.algebra import scale as scaled
from taskloom.algebra.aligned import aligned
from taskloom.algebra.spectral import is_matrix
from taskloom.registry import register


@register(
    "merge",
    paper="Stoica et al., Model merging with SVD to tie the Knots, ICLR 2025, section 4",
    needs=("base", "experts", "seed"),
)
def knots(
    *,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 0.6,
    p: Annotated[float, Field(ge=0, le=1)] = 0.0,
    scope: Scope = "model",
    skip: Sequence[str] = (),
    seed: int = 0,
) -> Chain:
    """Decompose the task vectors of a matrix together and merge their coordinates by TIES.

    ``[tau_1 ... tau_K] = U S [V_1 ... V_K]^T``; the ``S V_k^T`` are trimmed to ``density`` over all
    matrices (``p`` above 0 drops and rescales them first, KnOTS-DARE-TIES), signs are elected, what
    agrees is averaged, and U brings the mean back. Adapters can be merged into an adapter this way
    without a full matrix. Defaults are the released ones for ViT-B/32; for Llama-3-8B they are 1 and
    0.5. Released KnOTS-DARE-TIES has density 1 and p 0.1, scale 0.7 (ViT-B/32), or 0.8 and 0.4 (Llama).

    The paper merges adapters. The released code leaves out alpha/r (ours has it), cuts singular values
    at 1e-5 (ours at the numerical rank), lets a tied vote take the majority's sign (ours gives 0, as
    in ``ties``), counts coordinates that are 0 but for rounding in the mean (ours are 0), and leaves
    tensors that are no matrices as in the base; here they, and names that contain a part named in
    ``skip``, get the mean task vector.

    Equation
    --------
    [τ₁ … τ_K] = U S [V₁ … V_K]ᵀ, matrix by matrix
    θ = θ₀ + λ U TIES(S V₁ᵀ, …, S V_Kᵀ)

    When to use
    -----------
    LoRA adapters, above all where an adapter is to come out.

    When not
    --------
    Full fine-tunes of large matrices: all experts' columns are decomposed together, and read three
    times.
    """
    trim = keep(density, scope) if density < 1 else chain()
    head = drop(p, seed=seed) if p > 0 else chain()
    return chain(
        aligned(chain(head, trim, elect("zero"), mean("kept"))),
        scaled(scale),
        otherwise=chain(mean(), scaled(scale)),
        only=is_matrix(skip),
    )
