"""The greedy soup: an average of the experts that help on held-out data."""

from __future__ import annotations

from taskloom.algebra import Chain, chain
from taskloom.algebra.pick import pick_mean
from taskloom.registry import register


@register(
    "merge",
    paper="Wortsman et al., Model soups, ICML 2022, recipe 1 (greedy soup)",
    needs=("experts", "validation"),
)
def greedy_soup(*, ingredients: tuple[str, ...] = ()) -> Chain:
    """Average the ingredients that were chosen one by one on validation.

    ``ingredients`` are what `taskloom.greedy_soup` chose with a score of yours, by name; none stands for
    all experts (the uniform soup).

    The paper adds a model if the score does not fall, released code if it rises; see there.

    Parameters
    ----------
    ingredients
        Names of the experts that are averaged.

    Equation
    --------
    models by their validation score, best first;   S = {best}
    S ← S ∪ {m} if score(mean of S ∪ {m}) ≥ score(mean of S);   θ = mean of S

    When to use
    -----------
    Many fine-tunes of one task and labels that were held out.

    When not
    --------
    Experts of different tasks, unless one score stands for all; no labels.
    """
    return chain(pick_mean(ingredients), space="weight")
