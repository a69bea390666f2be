"""CoDiEmb's delta-guided fusion: finer weights for checkpoints, by how far each tensor moved."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain, total
from taskloom.algebra.size import Whose, weigh_by_size
from taskloom.registry import register


@register(
    "merge",
    paper="Zhang et al., CoDiEmb, arXiv 2508.11442 (delta-guided model fusion)",
    needs=("base", "experts"),
    partly={
        "CoDiEmb": "fusion by each parameter's deviation, by a formula of ours; its losses and its "
        "sampler are not"
    },
)
def codiemb(
    *, power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0, scope: Whose = "tensor"
) -> Chain:
    """Average task vectors, each tensor weighted by how far each expert moved it.

    ``theta = theta_0 + sum_i w_i d_i`` with ``w_i = |d_i|^power / sum_k |d_k|^power``, ``|d|`` the
    norm of the tensor's change.

    The paper's abstract says that weights come from each parameter's deviation from its start, and
    its released code (youtu-embedding) has no fusion: the formula, its power and the scope are our
    reading. ``power=0`` is the plain average; ``power=2, scope="model"`` is ``metagpt``.

    Equation
    --------
    θ = θ₀ + Σₖ wₖ τₖ,   wₖ = ‖τₖ‖^q / Σⱼ ‖τⱼ‖^q in every tensor,   q = power

    When to use
    -----------
    Checkpoints of one run, or of alike runs, that lean to different tasks.

    When not
    --------
    Experts trained for unlike lengths, the longest of which dominates; where the paper's own formula is
    needed, which is not public.
    """
    return chain(weigh_by_size(power, scope), total())
