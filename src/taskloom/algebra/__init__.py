"""Pure tensor maths: the contract, the primitives, exact order statistics. No files, no methods."""

from taskloom.algebra.combine import (
    interpolate_sphere,
    mean,
    optionally,
    scale,
    total,
    weigh,
)
from taskloom.algebra.core import Chain, Grain, Measure, Need, Scalar, Stack, Step, Weights, chain
from taskloom.algebra.linear import linear_weights
from taskloom.algebra.resolve import elect
from taskloom.algebra.sparsify import Scope, cut, drop, keep

__all__ = [
    "Chain",
    "Grain",
    "Measure",
    "Need",
    "Scalar",
    "Scope",
    "Stack",
    "Step",
    "Weights",
    "chain",
    "cut",
    "drop",
    "elect",
    "interpolate_sphere",
    "keep",
    "linear_weights",
    "mean",
    "optionally",
    "scale",
    "total",
    "weigh",
]
