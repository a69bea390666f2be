"""Divergence from what the task's own expert predicts."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from taskloom.registry import register


@register(
    "objective",
    paper="Touayouch et al., DivMerge, EACL 2026",
    needs=("expert logits",),
)
def js_divergence(
    logits: Tensor, expert: Tensor, *, divergence: Literal["js", "kl", "rkl"] = "js"
) -> Tensor:
    """Mean divergence between the model's and the expert's distributions, in nats; needs no labels.

    With P the expert's and Q the model's distribution and M their mean, ``js`` is
    ``KL(P||M) / 2 + KL(Q||M) / 2``, at most ln 2 for an example, so that no task outweighs the others;
    ``kl`` is ``KL(P||Q)``, ``rkl`` is ``KL(Q||P)``. ``0 log 0`` counts as 0.
    """
    ours, theirs = log_softmax(logits, dim=-1), log_softmax(expert, dim=-1)
    if divergence == "kl":
        return _kl(theirs, ours)
    if divergence == "rkl":
        return _kl(ours, theirs)
    middle = torch.logaddexp(ours, theirs) - math.log(2)
    return (_kl(theirs, middle) + _kl(ours, middle)) / 2


def _kl(one: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of KL between two distributions that are given as logarithms."""
    return (one.exp() * (one - other)).sum(-1).mean()
