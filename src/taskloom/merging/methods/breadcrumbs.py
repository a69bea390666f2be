"""Model Breadcrumbs: mask the outliers and the tiny changes of each row."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Weights, chain, cut, elect, keep, mean, optionally, total
from taskloom.algebra import scale as scaled
from taskloom.registry import register


@register(
    "merge",
    paper="Davari and Belilovsky, Model Breadcrumbs, ECCV 2024, eq. 1-3",
    needs=("base", "experts"),
    partly={
        "Model Breadcrumbs": "the method, and task arithmetic beside it in pools of 2 to 12 tasks with "
        "the same masks (docs/claims.md); but there its scale is chosen anew for each pool"
    },
)
def breadcrumbs(
    *,
    remove: Annotated[float, Field(ge=0, le=1)] = 0.1,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 0.4,
    weights: Weights | None = None,
    scope: Literal["row", "tensor"] = "row",
) -> Chain:
    """Cut the largest changes of every row, keep the next largest, add up what is left.

    Of a row of n entries ``int(n * remove)`` of largest magnitude are cut, then ``int(n * density)``
    are kept. ``theta = theta_0 + scale * sum_t tau_t``. Defaults are those of the released README.

    The paper's symbols count the masked shares (gamma on top, beta below), the released code and we
    count removed and kept ones. mergekit ranks whole tensors (``scope="tensor"``) and loses every
    tensor in which ``int(n * remove)`` is 0; we do not copy that.

    Equation
    --------
    θ = θ₀ + λ Σₖ mₖ ⊙ τₖ
    mₖ = 1 at ranks int(γn) + 1 to int(γn) + int(βn) of |τₖ| in its row of n;   γ = remove, β = density

    When to use
    -----------
    Several tasks, no data, one read: both the outliers and the tiny changes of every row go.

    When not
    --------
    Experts whose skill sits in few large changes, which are cut first; rows shorter than 1 / density, of
    which nothing is kept.
    """
    return chain(cut(remove, scope), keep(density, scope), optionally(weights), total(), scaled(scale))


@register(
    "merge",
    paper="Davari and Belilovsky, ECCV 2024, eq. 1-2, with the election of TIES (NeurIPS 2023)",
    needs=("base", "experts"),
)
def breadcrumbs_ties(
    *,
    remove: Annotated[float, Field(ge=0, le=1)] = 0.1,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    scale: Scalar = 1.0,
    weights: Weights | None = None,
    scope: Literal["row", "tensor"] = "row",
) -> Chain:
    """Mask as ``breadcrumbs`` does, then elect signs and average what agrees, as TIES does.

    The combination is mergekit's and has no paper of its own. There ``weights`` enter the vote, a tie
    counts as positive, whole tensors are ranked, and the mean is replaced by a sum unless
    ``normalize`` is set; here weights enter the mean only, as in ``ties``.

    Equation
    --------
    τ̂ₖ = mₖ ⊙ τₖ as in breadcrumbs;   g = sign Σₖ τ̂ₖ
    θ = θ₀ + λ mean{τ̂ₖ : sign τ̂ₖ = g}, entry by entry

    When to use
    -----------
    As ``breadcrumbs``, where experts disagree about signs.

    When not
    --------
    As ``breadcrumbs``; and there is no paper whose results it could be held against.
    """
    head = chain(cut(remove, scope), keep(density, scope))
    return chain(head, elect("zero"), mean("kept", weights), scaled(scale))
