"""Fisher merging: a mean in which every entry of every expert counts as much as its data says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Weights, chain, mean
from taskloom.algebra.informed import Floored, mean_by_fisher
from taskloom.registry import register

_FLOORED: dict[str, Floored] = {"paper": "all", "released": "first", "mergelm": "added"}


@register(
    "merge",
    paper="Matena and Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022, eq. 4",
    needs=("experts", "statistic fisher"),
)
def fisher(
    *,
    weights: Weights | None = None,
    normalize: bool = False,
    floor: Annotated[float, Field(ge=0)] = 1e-6,
    variant: Literal["paper", "released", "mergelm"] = "paper",
) -> Chain:
    """Average the experts entry by entry, weighted by their diagonal Fisher information.

    ``theta = sum_j w_j F_j theta_j / sum_j w_j F_j``, with each expert's statistic ``fisher``
    (``taskloom collect fisher``). Tensors without one (running means of normalisation layers) are
    averaged plainly.

    - ``weights`` are the paper's lambda, chosen on validation; the released script tries 51 for a pair.
    - ``normalize`` divides each Fisher by its norm over the whole model, as released code does unless
      told not to; the equation as printed does not.
    - The floor keeps entries that no example touched from 0/0. ``variant="released"`` floors the first
      expert's (the target's) only, so that there its weight stands; ``"mergelm"`` (MergeLM, FusionBench)
      adds the floor to every Fisher and to every norm.

    Parameters
    ----------
    weights
        One per expert; equal if None.
    normalize
        Divide each Fisher by its Euclidean norm.
    floor
        Smallest Fisher of an entry.
    variant
        Whose Fisher is floored, and how.

    Equation
    --------
    θ = Σₖ wₖ Fₖ ⊙ θₖ / Σₖ wₖ Fₖ,   Fₖ = meanₓ E_y (∂ log pₖ(y|x) / ∂θ)²

    When to use
    -----------
    Unlabeled inputs of every task and classifiers with few classes.

    When not
    --------
    No inputs; very many classes, each of which is a backward pass per example.
    """
    step = mean_by_fisher(weights, floor=floor, floored=_FLOORED[variant], normalize=normalize)
    return chain(step, space="weight", otherwise=chain(mean(weights=weights), space="weight"))
