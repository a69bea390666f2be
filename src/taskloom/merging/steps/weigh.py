"""Steps that weigh experts or entries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom import algebra
from taskloom.algebra import Chain, Weights, chain, threshold
from taskloom.algebra import size as sizes
from taskloom.algebra.sensitive import by_sensitivity
from taskloom.registry import register

Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register("step")
def weigh(*, weights: Weights) -> Chain:
    """Multiply each expert by its weight."""
    return chain(algebra.weigh(weights))


@register("step")
def weigh_by_size(*, power: Positive = 2.0, scope: sizes.Whose = "model") -> Chain:
    """Multiply each expert by its share of all sizes, as MetaGPT (power 2) does."""
    return chain(sizes.weigh_by_size(power, scope))


@register("step")
def weigh_by_sensitivity(
    *, temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
) -> Chain:
    """Multiply each layer of each expert by its sensitivity and transfer, as Sens-Merging does.

    Before the steps of any merge of task vectors; it reads the statistic ``sensitivity``.
    """
    return chain(by_sensitivity(temperature))


@register("step")
def favour_unique(*, gain: Positive, most: Positive) -> Chain:
    """Enlarge what one expert alone changed, by how much it shares with others in the tensor."""
    return chain(threshold.favour_unique(gain, most))
