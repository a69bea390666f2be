"""Task arithmetic: add, negate, and the analogy of task vectors."""

from __future__ import annotations

from taskloom.algebra import Chain, Scalar, Weights, chain, optionally, total, weigh
from taskloom.algebra import scale as scaled
from taskloom.registry import register

_PAPER = "Ilharco et al., Editing models with task arithmetic, ICLR 2023"


@register(
    "merge",
    paper=f"{_PAPER}, section 4 (addition)",
    needs=("base", "experts"),
    systems=("Task arithmetic (Editing Models with Task Arithmetic)",),
)
def task_arithmetic(*, scale: Scalar = 0.3, weights: Weights | None = None) -> Chain:
    """Add the experts' task vectors to the base, times one scale.

    ``theta = theta_0 + scale * sum_t w_t tau_t``, all ``w_t = 1`` unless given.

    The paper picks one scale from 0, 0.05, ..., 1 on validation data; 0.3 is what later work quotes
    for eight tasks, and the default here. Released code skips int64 and uint8 tensors; we copy every
    integer tensor from the base.

    Equation
    --------
    θ = θ₀ + λ Σₖ wₖ τₖ

    When to use
    -----------
    The first thing to try: one read, and one number to choose on validation.

    When not
    --------
    Many tasks: the sum grows with their number, and no scale suits all.
    """
    return chain(optionally(weights), total(), scaled(scale))


@register("merge", paper=f"{_PAPER}, section 3 (negation)", needs=("base", "experts"))
def task_negation(*, scale: Scalar = 1.0) -> Chain:
    """Subtract the experts' task vectors from the base, to forget what they learned.

    ``theta = theta_0 - scale * sum_t tau_t``. The paper takes the largest scale that keeps 95 % of the
    control task's accuracy, as ``taskloom edit negate`` does.

    Equation
    --------
    θ = θ₀ − λ Σₖ τₖ

    When to use
    -----------
    To make a model forget a task or a behaviour; a control task says how far to go.

    When not
    --------
    Skills that share much with what is to be kept.
    """
    return chain(total(), scaled(-scale))


@register("merge", paper=f"{_PAPER}, section 5 (analogy)", needs=("base", "experts"))
def task_analogy(*, scale: Scalar = 1.0) -> Chain:
    """Solve A is to B as C is to D: experts A, B, C, in that order, give D.

    ``theta = theta_0 + scale * (tau_C + tau_B - tau_A)``.

    Equation
    --------
    θ = θ₀ + λ (τ_C + τ_B − τ_A)

    When to use
    -----------
    A task D without data, where A is to B as C is to D and experts of A, B and C exist.

    When not
    --------
    Experts that stand in no such relation.
    """
    return chain(weigh([-1.0, 1.0, 1.0]), total(), scaled(scale), experts=(3, 3))
