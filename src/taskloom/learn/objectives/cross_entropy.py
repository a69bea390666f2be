"""Cross-entropy with the labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from taskloom.registry import register


@register("objective", paper="Zhang et al., aTLAS, NeurIPS 2024", needs=("labels",))
def cross_entropy(
    logits: Tensor, labels: Tensor, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Mean negative log probability of the label, in nats.

    Parameters
    ----------
    smoothing
        Share of every target that is spread evenly over all classes.
    """
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
