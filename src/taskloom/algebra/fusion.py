"""The step of Arcee Fusion: take over the changes whose importance stands out in their tensor."""

from __future__ import annotations

import math
from typing import Any

from taskloom.algebra.core import Grain, Stack, Step
from taskloom.lazy import Tensor, torch

_EPS = 1e-8


def important() -> Step:
    """Of two rows, base and expert, give the base with the expert's most important entries.

    An entry's importance is ``|expert - base|`` times the divergence of the two along the last axis
    (Kullback-Leibler, softmax + 1e-8); it is taken over where that reaches the tensor's median plus
    1.5 times the distance between its quartiles (the order statistics ``int(q (n - 1))``, exact).
    """

    def apply(stack: Stack, _: Any) -> Stack:
        base, expert = stack.values.unbind(0)
        if base.numel() == 0:
            return stack.with_values(stack.values[:1])
        scores = importance(base.detach(), expert.detach())
        ordered = scores.reshape(-1).sort().values
        low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
        mask = scores >= middle + 1.5 * (high - low)
        return stack.with_values((base + (expert - base) * mask)[None])

    return Step("important", apply, Grain.MATRIX, workspace=_sorted)


def _sorted(shape: tuple[int, ...], _: int) -> int:
    """Bytes of the scores, of them in order with their places, and of what sorting takes beside."""
    return (4 + 4 + 8 + 6) * math.prod(shape)


def importance(base: Tensor, expert: Tensor) -> Tensor:
    """``|expert - base|`` times the divergence of their rows; the shape of the inputs."""
    p, q = torch.softmax(expert, -1) + _EPS, torch.softmax(base, -1) + _EPS
    divergence = (p * torch.log(p / q)).sum(-1, keepdim=base.ndim > 0)
    return (expert - base).abs() * divergence
