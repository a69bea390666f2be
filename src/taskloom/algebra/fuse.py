"""The steps of SCE: select what varies, calculate coefficients, erase the minority.

Entries are ordered by their variance over the experts without a division: ``sum_k (K x_k - s)^2`` with
``s = sum_k x_k`` is K^3 times the variance. It is computed in float64 and compared by the high 32 bits,
that is to one part in 2**20; entries that agree in these are taken in the order of their index. The
energy of an expert is added as `taskloom.algebra.gram` adds. So neither depends on how a tensor is cut.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.combine import sum_rows
from taskloom.algebra.core import Chain, Grain, Measure, Op, Stack, Step, chain
from taskloom.algebra.gram import BLOCK, COLUMNS, block_sums, gram, measuring
from taskloom.algebra.select import Found, Radix, Selection
from taskloom.lazy import Tensor, torch

Rule = Literal["paper", "released", "mergekit"]
_TINY = 1e-6  # mergekit's floor, of a sum of squares and of a sum of coefficients
_MOST = 0x7FF00000  # high bits of what is not finite


def fuse(share: float, rule: Rule = "paper") -> Chain:
    """Fuse task vectors per tensor by the variance of their entries.

    Select: of the n entries whose (population) variance over the experts is not 0, the
    ``int(share * n)`` of largest variance; all entries if ``share`` is 1. Calculate: an expert's
    coefficient is its share of the squared norm of what was selected; equal if all are 0. Erase:
    entries against the sign of the sum (0 counts as positive). Then the mean by coefficient.

    ``"paper"`` merges what was selected only; ``"released"`` uses the selection for the coefficients
    only, and at share 1 too, and has the whole tensor in memory; ``"mergekit"`` is the paper's with
    equal coefficients where the mean squares sum up to less than 1e-6, and with no divisor below 1e-6.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is a share of the entries and must lie in [0, 1], not {share!r}")
    if rule == "released":
        return chain(_released(share))
    return chain(*([select_varying(share)] if share < 1 else []), erase(rule))


def select_varying(share: float) -> Step:
    """Set all but the ``int(share * n)`` entries of largest variance to zero, n that vary at all.

    Over each tensor; two more reads of tensors larger than a slice.
    """
    measure = _varying(share)

    def apply(stack: Stack, selection: Selection | None) -> Stack:
        if stack.values.numel() == 0:
            return stack
        if selection is None:
            selection = _measured(measure, stack)
        return stack.with_values(stack.values * _marks(stack.values, selection))

    label = f"select_varying({share:g})"
    return Step(label, apply, Grain.TENSOR, slicewise=measure, op=Op("vary", share))


def _varying(share: float) -> Measure:
    """Measure which entries vary most."""

    def start(round_: int, previous: Radix | None) -> Radix:
        if previous is None:
            return Radix.first(1)
        first = Radix(previous.counts[:1])
        (total,), (still,) = first.totals, first.counts[:, 0]
        return first.second([int(total) - int(share * int(total - still)) + 1])

    def see(acc: Radix, stack: Stack) -> Radix:
        return acc.see_bits(variance_keys(stack.values)[None])

    def done(acc: Radix | Found) -> Selection:
        return acc.selection()

    return Measure(2, start, see, done, lambda one, other: one.join(other), "magnitudes")


def erase(rule: Rule = "paper") -> Step:
    """Average by coefficient what agrees with the sign of the sum: ``(K, ...) -> (1, ...)``.

    Coefficients are shares of the squared norm over the tensor, which is read once more where it is
    larger than a slice.
    """

    def apply(stack: Stack, energies: NDArray[np.float64] | None) -> Stack:
        values = stack.values
        if values.numel() == 0:
            return stack.with_values(values[:1])
        if values.requires_grad and energies is None:
            return _average(stack, values, _differentiable(values, rule), rule)
        if energies is None:
            energies = np.diag(gram([block_sums(values)]))
        return _average(stack, values, _like(coefficients(energies, stack.numel, rule), values), rule)

    measure = measuring(lambda products: np.diag(products))
    op = Op("erase", value=_TINY, flag=int(rule == "mergekit"))
    return Step(f"erase({rule})", apply, Grain.TENSOR, slicewise=measure, op=op, block=BLOCK)


def coefficients(energies: NDArray[np.float64], numel: int, rule: Rule) -> NDArray[np.float64]:
    """Squared norms over a tensor of ``numel`` entries to weights that sum to 1.

    >>> coefficients(np.array([1.0, 3.0]), 8, "paper")
    array([0.25, 0.75])
    """
    largest = energies.max()
    total = energies.sum() / numel
    if total < _TINY if rule == "mergekit" else largest == 0:
        return np.full(len(energies), 1.0 / len(energies))
    scaled = energies / largest
    shares: NDArray[np.float64] = scaled / scaled.sum()
    return shares


def variance_keys(values: Tensor) -> Tensor:
    """``(K, ...)`` to int32 ``(n,)`` whose order is that of the variance over the rows."""
    wide = values.detach().reshape(len(values), -1).double()
    bits = sum_rows((wide * len(wide) - sum_rows(wide)).square())[0].contiguous().view(torch.int64)
    return ((bits >> 32) & 0x7FFFFFFF).clamp(max=_MOST).to(torch.int32)


def _slices(values: Tensor) -> tuple[Tensor, ...]:
    """Cut ``(K, ...)`` into ``(K, n)``: wider numbers and keys are made of so many entries at once."""
    return torch.split(values.reshape(len(values), -1), COLUMNS, 1)


def _measured(measure: Measure, stack: Stack) -> Any:
    accumulated: Any = None
    for round_ in range(measure.rounds):
        accumulated = measure.start(round_, accumulated)
        for part in _slices(stack.values):
            accumulated = measure.see(accumulated, stack.with_values(part))
    return measure.done(accumulated)


def _marks(values: Tensor, selection: Selection) -> Tensor:
    marks = [selection.mark_bits(variance_keys(part)[None])[0] for part in _slices(values)]
    return torch.cat(marks).reshape(values.shape[1:])


def _released(share: float) -> Step:
    """Weigh by what is selected, merge everything."""
    measure = _varying(share)

    def apply(stack: Stack, _: Any) -> Stack:
        values = stack.values
        if values.numel() == 0:
            return stack.with_values(values[:1])
        selection = _measured(measure, stack)
        if values.requires_grad:
            weights = _differentiable(values * _marks(values, selection), "released")
            return _average(stack, values, weights, "released")
        sums = [block_sums(part * _marks(part, selection)) for part in _slices(values)]
        energies = np.diag(gram(sums))
        weights = _like(coefficients(energies, stack.numel, "released"), values)
        out = values.new_empty((1, *values.shape[1:]))
        for part, into in zip(_slices(values), _slices(out), strict=True):
            into[:] = _average(stack, part, weights, "released").values
        return stack.with_values(out)

    return Step(f"fuse({share:g}, released)", apply, Grain.TENSOR, workspace=_sliced)


def _sliced(shape: tuple[int, ...], count: int) -> int:
    """Bytes of the result, and of what is made of a slice: the rows twice in float64, and some more.

    glibc's allocator keeps up to twice the largest tensor that was let go of, and of slices it does.
    """
    size = math.prod(shape)
    return 4 * size + 2 * 4 * size + (2 * 8 * count + 64) * min(size, COLUMNS)


def _like(weights: NDArray[np.float64], values: Tensor) -> Tensor:
    return torch.from_numpy(weights).to(values.device, values.dtype)


def _average(stack: Stack, values: Tensor, weights: Tensor, rule: Rule) -> Stack:
    column = weights.reshape(-1, *[1] * (values.ndim - 1))
    positive = sum_rows(values).detach() >= 0
    agree = torch.sign(values.detach()) == torch.where(positive, 1.0, -1.0)
    shares = column * agree
    divisor = sum_rows(shares)
    summed = sum_rows(values * shares)
    if rule == "mergekit":
        return stack.with_values(summed / divisor.clamp(min=_TINY))
    empty = divisor == 0
    mean = summed / torch.where(empty, 1.0, divisor)
    return stack.with_values(torch.where(empty, 0.0, mean))


def _differentiable(values: Tensor, rule: Rule) -> Tensor:
    """Return coefficients ``(K,)`` through which gradients flow."""
    rows = values.reshape(len(values), -1)
    power = _power_of_two(rows)
    squares = (rows / power).square().mean(1)
    total = float(squares.detach().sum()) * (power * power if rule == "mergekit" else 1.0)
    equal = total < _TINY if rule == "mergekit" else total == 0
    return torch.full_like(squares, 1.0 / len(squares)) if equal else squares / squares.sum()


def _power_of_two(rows: Tensor) -> float:
    """Largest magnitude rounded to a power of two: dividing by it changes no bits."""
    largest = float(rows.detach().abs().max())
    return 2.0 ** int(torch.frexp(torch.tensor(largest)).exponent) if largest > 0 else 1.0
