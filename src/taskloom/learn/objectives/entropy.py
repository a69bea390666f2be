"""Entropy of what the model predicts."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from taskloom.registry import register


@register("objective", paper="Yang et al., AdaMerging, ICLR 2024")
def entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy of the predicted distributions, in nats; needs no labels.

    ``mean_x -sum_c p_c log p_c``. It is smallest where the model is sure, also where it is sure of one
    class for everything: look at the predictions, too.

    FusionBench adds 1e-8 inside the logarithm; here the logarithm of the softmax is taken at once.
    """
    logs = log_softmax(logits, dim=-1)
    return -(logs.exp() * logs).sum(-1).mean()
