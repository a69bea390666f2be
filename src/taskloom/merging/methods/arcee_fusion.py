"""Arcee Fusion: take over only the changes that matter most to a tensor."""

from __future__ import annotations

from taskloom.algebra import Chain, chain
from taskloom.algebra.fusion import important
from taskloom.registry import register


@register("merge", paper="Arcee Fusion (released in mergekit); no paper", needs=("experts",))
def arcee_fusion() -> Chain:
    """Give the first model those entries of the second whose importance reaches a threshold.

    Importance is the absolute difference times the Kullback-Leibler divergence of its row (softmax of
    the second model's row against the first's, 1e-8 added to each); the threshold of a tensor is the
    median plus 1.5 times the distance of the quartiles. Quartiles are exact; mergekit
    draws a million entries (unseeded) from larger tensors, so that its result differs between runs.

    Equation
    --------
    I = |θ₂ − θ₁| · KL(softmax(row of θ₂) ‖ softmax(row of θ₁))
    θ = θ₁ + 1[I ≥ q₅₀ + 1.5 (q₇₅ − q₂₅)] ⊙ (θ₂ − θ₁),   q the quantiles of I in the tensor

    When to use
    -----------
    A second model of which only the weightiest changes are wanted in the first.

    When not
    --------
    More than two models; a mixture of both, since an entry is the one's or the other's.
    """
    return chain(important(), space="weight", experts=(2, 2))
