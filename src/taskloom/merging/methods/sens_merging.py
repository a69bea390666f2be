"""Sens-Merging: layers weighted by their expert's sensitivity, experts by their distance on tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, chain, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.sensitive import by_sensitivity
from taskloom.registry import register


@register(
    "merge",
    paper="Liu et al., Sens-Merging, Findings of ACL 2025 (arXiv 2502.12420), section 3",
    needs=("base", "experts", "statistic sensitivity"),
    systems=("Sens-Merging",),
)
def sens_merging(*, temperature: Annotated[float, Field(gt=0)] = 1.0, scale: Scalar = 1.0) -> Chain:
    """Add up task vectors, each layer of each weighted by its expert's sensitivity there.

    ``theta^l = theta_0^l + scale * sum_i N s_i^l tau_i^l`` with ``s_i^l`` the softmax over the N experts
    of ``a_i^l t_i / temperature``: ``a_i`` the expert's sensitivities on its own task over the layers at
    length 1, ``t_i`` its share of all distances between its outputs and the other experts' on their own
    tasks (statistic ``sensitivity``, ``taskloom collect sensitivity``).

    Equal coefficients make this the sum of task vectors; ``scale`` is that of the host, task
    arithmetic. Before any other host it is the step ``weigh_by_sensitivity``. There is no released code:
    the formulas are those of the paper as a third party wrote them down. Whether N belongs in the
    coefficient depends on the host, and ``scale=1/N`` leaves it out.

    Parameters
    ----------
    temperature
        Of the softmax; large makes all coefficients equal.
    scale
        Factor of the sum.

    Equation
    --------
    θˡ = θ₀ˡ + λ Σₖ K sₖˡ τₖˡ,   sₖˡ = softmax over k of aₖˡ tₖ / T,   l the layer

    When to use
    -----------
    Labeled examples of every task, and time for gradients.

    When not
    --------
    No labels; experts without comparable outputs.
    """
    return chain(by_sensitivity(temperature), total(), scaled(scale))
