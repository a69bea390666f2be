"""EMR-Merging: elect one vector for all tasks, mask and rescale it for each."""

from __future__ import annotations

from taskloom.algebra import Chain, chain
from taskloom.algebra.parts import Sizes, elect_largest, take
from taskloom.registry import register


@register(
    "merge",
    paper="Huang et al., EMR-Merging, NeurIPS 2024, section 3.2, eq. 2-4",
    needs=("base", "experts"),
)
def emr(*, task: str | None = None, variant: Sizes = "paper") -> Chain:
    """Elect a sign and the largest change of that sign per entry; each task masks and rescales it.

    ``tau = g * max_t |tau_t|`` over the experts that agree with the elected sign g, that of the sum. The
    model of a task is ``theta_0 + l_t M_t tau``, M_t marking where its own change agrees, l_t making it
    as long as its own. ``task`` names the expert whose model is wanted; None gives ``theta_0 + tau``,
    which the paper uses for no task.

    - ``variant="paper"`` takes ``l_t = sum |tau_t| / sum |M_t tau|`` over the model.
    - ``"released"`` (the authors' code) adds up the means of tensors, so that a bias counts as much as a
      matrix; its script for 30 models takes one flat vector, which is the paper's. Both elect the
      negative sign where the sum is 0. Where nothing agrees l_t is 0, not 0/0.

    ``taskloom.merge_parts`` keeps the parts of all tasks in one folder: a vector, a bit per entry and
    task, a number per task.

    Equation
    --------
    g = sign Σₖ τₖ,   τ = g ⊙ max{|τₖ| : sign τₖ = g},   Mₖ = 1[τₖ ⊙ g > 0],   lₖ = Σ|τₖ| / Σ|Mₖ ⊙ τ|
    model of task k:  θ₀ + lₖ Mₖ ⊙ τ

    When to use
    -----------
    The task of an input is known, and a bit per weight and task may be kept: no data, nothing to tune.

    When not
    --------
    One model for all tasks.
    """
    return chain(elect_largest(None if task is None else variant), take(task))


def parts(*, variant: Sizes = "paper") -> Chain:
    """Return the chain that ends with the shared vector and the factors of every task."""
    return chain(elect_largest(variant))
