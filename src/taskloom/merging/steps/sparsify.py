"""Steps that set entries of task vectors to zero."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom import algebra
from taskloom.algebra import Chain, Scope, chain, rank, threshold
from taskloom.algebra import exclusive as turns
from taskloom.algebra import layers as pruning
from taskloom.registry import register

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register("step")
def keep(*, density: Share, scope: Scope = "model", extra: Annotated[int, Field(ge=0)] = 0) -> Chain:
    """Keep the largest magnitudes of each expert, and ``extra`` entries more."""
    return chain(algebra.keep(density, scope, extra=extra))


@register("step")
def cut(*, share: Share, scope: Literal["row", "tensor"] = "row") -> Chain:
    """Set the largest magnitudes of each row or tensor to zero."""
    return chain(algebra.cut(share, scope))


@register("step")
def band(*, density: Share, remove: Share = 0.0, least: Annotated[int, Field(ge=0)] = 0) -> Chain:
    """Keep the magnitudes of a tensor that come after its largest, at least ``least`` of them."""
    return chain(threshold.band(density, remove, least=least))


@register("step")
def drop(*, p: Share, rescale: bool = True, seed: int = 0) -> Chain:
    """Drop entries at random and rescale the rest, as DARE does."""
    return chain(algebra.drop(p, rescale=rescale, seed=seed))


@register("step")
def drop_by_rank(*, density: Share, epsilon: Positive, rescale: bool = True, seed: int = 0) -> Chain:
    """Drop small changes of a row more often than large ones, as DELLA does."""
    return chain(rank.drop_by_rank(density, epsilon, rescale=rescale, seed=seed))


@register("step")
def beyond(*, size: Positive) -> Chain:
    """Set entries to zero that are not larger than a number."""
    return chain(threshold.beyond(size))


@register("step")
def clip(*, limit: Positive) -> Chain:
    """Clip entries to plus and minus a number."""
    return chain(threshold.clip(limit))


@register("step")
def exclusive(*, density: Share) -> Chain:
    """Let experts choose in turn the largest entries of a tensor, none twice."""
    return chain(turns.exclusive(density))


@register("step")
def exclusive_blocks(
    *,
    n: Annotated[int, Field(ge=1)],
    m: Annotated[int, Field(ge=1)],
    trailing: turns.Trailing = "drop",
) -> Chain:
    """Let experts choose in turn the n largest of every m entries, none twice, as CABS does."""
    return chain(turns.exclusive_blocks(n, m, trailing))


@register("step")
def prune_layers(
    *, share: Share, which: Literal["low", "high"] = "low", layers: pruning.Layers = "block"
) -> Chain:
    """Set whole layers of each task vector to zero, those that changed least or most."""
    return chain(pruning.prune_layers(share, which, layers))
