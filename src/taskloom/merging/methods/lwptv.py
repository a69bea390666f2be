"""LwPTV: leave whole layers of a task vector out before any merge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra import Chain, Scalar, Weights, chain
from taskloom.algebra.layers import Layers, prune_layers
from taskloom.merging.methods.task_arithmetic import task_arithmetic
from taskloom.merging.methods.ties import ties
from taskloom.registry import register


@register(
    "merge",
    paper="Zhang et al., Merging smarter, generalizing better, arXiv 2506.09093",
    needs=("base", "experts"),
    partly={
        "LwPTV": "layers are pruned by a saliency of ours: the paper's could not be read; no task out "
        "of domain was measured"
    },
)
def lwptv(
    *,
    share: Annotated[float, Field(ge=0, le=1)] = 1 / 3,
    host: Literal["task_arithmetic", "ties"] = "task_arithmetic",
    scale: Scalar = 0.3,
    weights: Weights | None = None,
    density: Annotated[float, Field(ge=0, le=1)] = 0.2,
    prune: Literal["low", "high"] = "low",
    layers: Layers = "block",
) -> Chain:
    """Set the layers that an expert changed least to the base's, then merge as the host does.

    Of the L numbered blocks of each expert the ``int(share * L)`` with the smallest mean magnitude of
    change are left out (the largest with ``prune="high"``); embeddings and heads stay.

    Of the paper we could read the abstract only (a saliency per task and layer, a 0/1 mask, any host),
    and found no code: its saliency is not known to us. Ours is the mean magnitude, share 1/3, so
    call results LwPTV-like. ``density`` is the host ``ties``' own.

    Equation
    --------
    τ̂ₖ = τₖ, but 0 in the int(ρL) of L blocks with the smallest mean |τₖ|;   then the host;   ρ = share

    When to use
    -----------
    Models that will meet other inputs than those they were tuned on, which is what the paper is about.

    When not
    --------
    Where the paper's own saliency is needed; models of few blocks.
    """
    if host == "ties":
        tail = ties(density=density, scale=scale, weights=weights)
    else:
        tail = task_arithmetic(scale=scale, weights=weights)
    return chain(prune_layers(share, prune, layers), tail)
