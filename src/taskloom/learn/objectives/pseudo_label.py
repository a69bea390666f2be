"""Cross-entropy with the model's own labels, where it is sure of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from taskloom.registry import register


@register("objective", paper="Zhang et al., aTLAS, NeurIPS 2024 (test-time adaptation)")
def pseudo_label(logits: Tensor, *, threshold: Annotated[float, Field(ge=0, le=1)] = 0.9) -> Tensor:
    """Mean cross-entropy with the predicted class over the examples it is predicted with confidence.

    Examples whose largest probability is below ``threshold`` are left out; if all are, the result is 0
    and has no gradient.

    The paper's loss (after FixMatch) compares a weak and a strong view of an image and keeps the most
    confident examples of every class as trusted. In released code (557d7fb) every example ends up
    trusted, with the class that the first model predicted; a batch without a confident example would
    divide by 0. Texts have no such views, so there is one view here, and the labels are the present
    model's.
    """
    chances, guesses = softmax(logits.detach(), dim=-1).max(-1)
    sure = (chances >= threshold).to(logits.dtype)
    losses = cross_entropy(logits, guesses, reduction="none")
    return (losses * sure).sum() / sure.sum().clamp(min=1)
