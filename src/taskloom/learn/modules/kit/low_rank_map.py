"""A small map of two matrices, and how it starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, relu


def down_and_up(width: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return W_down ``(r, d)``, uniform in +-1/sqrt(d), and W_up ``(d, r)`` of zeros.

    The former is Kaiming's uniform initialisation with a = sqrt(5).
    """
    bound = 1 / math.sqrt(width)
    down = (torch.rand(rank, width, generator=generator) * 2 - 1) * bound
    return down, torch.zeros(width, rank)


def subtract(feature: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return ``z - W_up ReLU(W_down z)`` over the last axis, in the shape of ``z``.

    Parameters
    ----------
    feature
        z, ``(..., d)``.
    down, up
        W_down ``(r, d)`` and W_up ``(d, r)``, in the dtype of z.

    >>> z = torch.tensor([1.0, -2.0])
    >>> subtract(z, torch.tensor([[0.5, 0.0]]), torch.tensor([[0.2], [0.4]]))
    tensor([ 0.9000, -2.2000])
    """
    return feature - linear(relu(linear(feature, down)), up)
