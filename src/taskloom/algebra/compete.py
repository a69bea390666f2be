"""The step of PCB-Merging: entries compete within their task and across tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import optionally, sum_rows
from taskloom.algebra.core import Measure, Op, Stack, Step, Weights
from taskloom.algebra.scores import exp, tanh
from taskloom.algebra.select import Found, Radix
from taskloom.lazy import Tensor, torch

Cross = Literal["released", "vision"]
Floats = NDArray[np.float32]


@dataclass
class Limits:
    """What is known of the whole model: one number per expert.

    Attributes
    ----------
    low, high
        Magnitudes are clamped to them.
    floor, top
        Scores up to the floor are scaled to 0, the top one to 1.
    """

    low: Floats
    high: Floats
    floor: Floats
    top: Floats


@dataclass
class Ended:
    """What two rounds end with, found otherwise."""

    radix: Found
    limits: Limits | None = None


@dataclass
class Magnitudes:
    """Rounds 0 and 1: order statistics of magnitudes."""

    radix: Radix | None
    scored = False

    def see(self, values: Tensor) -> Magnitudes:
        """Count a slice."""
        radix = Radix.first(len(values)) if self.radix is None else self.radix.fresh()
        if radix.prefix is not None:  # a row for the low end, a row for the high one
            values = torch.cat([values, values])
        return self.join(Magnitudes(radix.see(values)))

    def counted(self, counts: NDArray[np.int64], _: Any) -> Magnitudes:
        """Return this round with what the kernels counted in place of what it saw."""
        return Magnitudes(Radix(counts) if self.radix is None else replace(self.radix, counts=counts))

    def found(self, radix: Found, _: Any) -> Ended:
        """Return what both rounds end with, found otherwise."""
        return Ended(radix)

    @property
    def known(self) -> None:
        """Nothing that the kernels need."""
        return None

    def join(self, other: Magnitudes) -> Magnitudes:
        """Return what both have seen."""
        both = (self.radix, other.radix)
        known = [radix for radix in both if radix is not None]
        return Magnitudes(known[0].join(known[1]) if len(known) == 2 else known[0] if known else None)


@dataclass
class Scores:
    """Rounds 2 and 3: order statistics of scores, by integers of their order; a row for each expert.

    ``cutoff``: what is below may be counted as the smallest of all.
    """

    limits: Limits
    radix: Radix
    cross: Cross
    cutoff: Floats
    scored = True

    def see(self, values: Tensor) -> Scores:
        """Score and count a slice."""
        scores = compete_scores(values, self.limits, self.cross)
        flat = scores.reshape(len(scores), -1).cpu().numpy()
        radix = self.radix.fresh().see_bits(torch.from_numpy(_order(flat)))
        top = np.maximum(self.limits.top, flat.max(1, initial=-np.inf))
        return self.join(replace(self, radix=radix, limits=replace(self.limits, top=top)))

    def counted(self, counts: NDArray[np.int64], top: Floats | None) -> Scores:
        """Return this round with what the kernels counted in place of what it saw."""
        most = self.limits.top if top is None else np.maximum(self.limits.top, top)
        limits = replace(self.limits, top=most)
        return replace(self, limits=limits, radix=replace(self.radix, counts=counts))

    def found(self, radix: Found, largest: NDArray[np.int64]) -> Ended:
        """Return what both rounds end with, found otherwise, and with the largest score of all."""
        return Ended(radix, replace(self.limits, top=_scores_of(largest)))

    def between(self, low: NDArray[np.int64]) -> Scores:
        """Return the round for which nothing matters that is below these scores."""
        scores = _scores_of(low)
        return replace(self, cutoff=np.where(scores > 0, scores, -np.inf).astype(np.float32))

    @property
    def known(self) -> Limits:
        """What the kernels need to count: the floor is the cutoff."""
        return replace(self.limits, floor=self.cutoff)

    def join(self, other: Scores) -> Scores:
        """Return what both have seen."""
        top = np.maximum(self.limits.top, other.limits.top)
        limits = replace(self.limits, top=top)
        return replace(self, limits=limits, radix=self.radix.join(other.radix))


def _order(scores: Floats) -> NDArray[np.int64]:
    """Float32 to integers of 32 bits in the same order."""
    bits = np.ascontiguousarray(scores).view(np.uint32).astype(np.int64)
    found: NDArray[np.int64] = np.where(bits >= 1 << 31, bits ^ 0xFFFFFFFF, bits ^ (1 << 31))
    return found


def _scores_of(order: NDArray[np.int64]) -> Floats:
    """Undo `_order`."""
    bits = np.where(order >= 1 << 31, order ^ (1 << 31), order ^ 0xFFFFFFFF).astype(np.uint32)
    found: Floats = bits.view(np.float32) + np.float32(0)  # -0 is 0
    return found


def compete(
    ratio: float,
    clamp: float = 1e-4,
    weights: Weights | None = None,
    cross: Cross = "released",
) -> Step:
    """Average entries by what they score within their task and across tasks: ``(K, ...) -> (1, ...)``.

    Over the whole model and for each expert: magnitudes are clamped to order statistics
    ``int(n clamp)`` and ``int(n (1 - clamp) - 1)`` (from 0); the score is
    ``exp(K a^2) tanh(tau_i sum_j tau_j)`` with a the clamped magnitude scaled to [0, 1]; scores up to
    the one of rank ``int(n (1 - ratio))`` become 0, the highest 1, in a straight line; then
    ``sum_i w_i s_i tau_i / sum_i s_i`` with s the scaled scores and tau the clamped entries, 0 where
    nothing scores. Four more reads; scores are compared as float32. No gradient flows through them.

    Parameters
    ----------
    ratio
        Share that may score, in (0, 1].
    clamp
        Share clamped at either end, in [0, 0.5).
    weights
        In the numerator only, one per expert.
    cross
        ``"vision"`` takes ``sum_j sign_j a_j`` for ``sum_j tau_j`` in the score.
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio is a share of the entries and must lie in (0, 1], not {ratio!r}")
    if not 0.0 <= clamp < 0.5:
        raise ValueError(f"clamp is a share of the entries and must lie in [0, 0.5), not {clamp!r}")

    def see(acc: Magnitudes | Scores, stack: Stack) -> Magnitudes | Scores:
        return acc.see(stack.values.detach())

    def start(round_: int, previous: Any) -> Magnitudes | Scores | None:
        if round_ == 0:
            return Magnitudes(None)
        if round_ == 1:
            return Magnitudes(_doubled(previous.radix, clamp))
        if round_ == 2:
            low, high = np.split(previous.radix.limits().view(np.float32), 2)
            nothing = np.full(len(low), -np.inf, dtype=np.float32)
            return Scores(Limits(low, high, nothing, nothing), Radix.wide(len(low)), cross, nothing)
        ranks = [_floor_rank(int(n), ratio) for n in previous.radix.totals]
        radix = previous.radix.second(ranks)
        left_out = np.isfinite(previous.cutoff) & (radix.prefix <= _order(previous.cutoff) >> 16)
        return None if left_out.any() else replace(previous, radix=radix)

    def done(acc: Any) -> Limits:
        limits: Limits = acc.limits
        return replace(limits, floor=_scores_of(acc.radix.wanted()))

    def apply(stack: Stack, limits: Limits) -> Stack:
        values, device = stack.values, stack.values.device
        scores = compete_scores(values, limits, cross).double()
        floor, top = _column(limits.floor, scores), _column(limits.top, scores)
        scaled = ((scores - floor).clamp(min=0) / torch.where(top > floor, top - floor, 1.0)).to(device)
        low, high = _column(limits.low, values), _column(limits.high, values)
        clamped = torch.sign(values) * torch.minimum(torch.maximum(values.abs(), low), high)
        scaled = scaled.to(values.dtype)
        row = stack.with_values(clamped * scaled)
        for step in optionally(weights).steps:
            row = step.apply(row, None)
        divisor = sum_rows(scaled)
        empty = divisor == 0
        merged = sum_rows(row.values) / torch.where(empty, 1.0, divisor)
        return stack.with_values(torch.where(empty, 0.0, merged))

    measure = Measure(
        4,
        start,
        see,
        done,
        join=lambda one, other: one.join(other),
        count="scores",
    )
    inside = ", ".join([f"{ratio:g}", f"clamp {clamp:g}", *([cross] if cross != "released" else [])])
    op = Op("compete", weights=weights, flag=int(cross == "vision"))
    return Step(f"compete({inside})", apply, measure=measure, weights=weights, op=op)


def compete_scores(values: Tensor, limits: Limits, cross: Cross = "released") -> Tensor:
    """``(K, ...)`` scores as float32; computed in float64, so that equal entries score equally."""
    exact = values.detach().double()
    low, high = _column(limits.low, exact), _column(limits.high, exact)
    wide = torch.where(high > low, high - low, 1.0)
    size = exact.abs().clamp_(low, high).sub_(low).div_(wide)
    rivals = sum_rows(exact if cross == "released" else torch.sign(exact) * size)
    return (tanh(exact * rivals) * exp(size * size * len(values))).float()


def _column(numbers: Floats, like: Tensor) -> Tensor:
    column = torch.from_numpy(numbers).to(like.device, like.dtype)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def _doubled(radix: Radix, clamp: float) -> Radix:
    """Start round 1 for the low and the high rank of every expert."""
    totals = [int(n) for n in radix.totals]
    low = [min(n, int(n * clamp) + 1) for n in totals]
    high = [max(1, int(n * (1 - clamp) - 1) + 1) for n in totals]
    return Radix(np.concatenate([radix.counts, radix.counts])).second(low + high)


def _floor_rank(count: int, ratio: float) -> int:
    """Rank, from 1, of the score up to which all are scaled to 0."""
    return min(count, int(count * (1 - ratio)) + 1)
