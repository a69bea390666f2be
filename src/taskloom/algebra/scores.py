"""Exponential function and hyperbolic tangent of single IEEE operations, as the kernels compute them.

Library functions differ in the last bit between libraries, and between the vector code and the rest of
a slice. These are the same everywhere; they are right to about one part in 10**10, and scores are
rounded to float32, one part in 10**7.
"""

from __future__ import annotations

from taskloom.lazy import Tensor, torch

_LOG2E = 1.4426950408889634
#: ln 2 as a short number, whose small multiples are exact, and the rest
_LN2 = (0.693145751953125, 1.4286068203094173e-06)
_TAYLOR = (39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0)


def exp(z: Tensor) -> Tensor:
    """Exponential function of float64 numbers, clamped to [-700, 700]: a power of two, Taylor's series.

    >>> exp(torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor([1.0000, 2.7183], dtype=torch.float64)
    """
    z = z.clamp(-700.0, 700.0)
    k = (z * _LOG2E + 0.5).floor_()
    r = z.sub_(k * _LN2[0]).sub_(k * _LN2[1])
    p = torch.full_like(r, 1.0 / _TAYLOR[0])
    for factorial in _TAYLOR[1:]:
        p.mul_(r).add_(1.0 / factorial)
    for constant in (0.5, 1.0, 1.0):
        p.mul_(r).add_(constant)
    return p.mul_(((k.to(torch.int64) + 1023) << 52).view(torch.float64))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of float64 numbers: Lambert's continued fraction up to 1, `exp` beyond.

    >>> tanh(torch.tensor([-0.5, 0.0, 2.0], dtype=torch.float64))
    tensor([-0.4621,  0.0000,  0.9640], dtype=torch.float64)
    """
    z = x * x
    top = ((z + 378.0) * z + 17325.0) * z + 135135.0
    low = ((28.0 * z + 3150.0) * z + 62370.0) * z + 135135.0
    found = (x * top).div_(low)
    small = z <= 1.0
    if bool(small.all()):
        return found
    t = exp(x.abs() * -2.0)
    far = (1.0 - t) / (1.0 + t)
    return torch.where(small, found, torch.where(x < 0, -far, far))
