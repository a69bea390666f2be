"""Contrast between what belongs together and what does not, for models that embed."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "objective",
    paper="Khosla et al., Supervised contrastive learning, NeurIPS 2020, eq. 2 (InfoNCE for pairs)",
    needs=("pairs",),
)
def contrastive(
    logits: Tensor, labels: Tensor, *, temperature: Annotated[float, Field(gt=0)] = 0.05
) -> Tensor:
    """Mean over embeddings of the negative log share of those with the same label among all others.

    With cosines ``s`` at a temperature, ``mean_i mean_{p: y_p = y_i} -log(exp(s_ip) / sum_{a != i}
    exp(s_ia))``. Give the two sides of a pair one label and every pair another: that is InfoNCE with
    the other examples of the batch as negatives, in both directions. Rows without a partner in the
    batch count as negatives only.

    Parameters
    ----------
    temperature
        What cosines are divided by.

    Raises
    ------
    DataError
        No two rows of the batch have the same label.
    """
    rows = normalize(logits, dim=-1)
    alone = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    scores = (rows @ rows.T / temperature).masked_fill(alone, -torch.inf)
    logs = scores - scores.logsumexp(-1, keepdim=True)
    partners = (labels[:, None] == labels[None, :]) & ~alone
    counts = partners.sum(-1)
    paired = counts > 0
    if not bool(paired.any()):
        raise DataError(
            "the contrastive objective found no two examples with one label in a batch",
            hint="Give the two sides of every pair one label, or larger batches",
        )
    summed = torch.where(partners, logs, 0.0).sum(-1)
    return -(summed[paired] / counts[paired]).mean()
