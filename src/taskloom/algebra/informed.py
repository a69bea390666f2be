"""Steps that read a statistic of each expert beside its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from taskloom.algebra.combine import resolve_weights, sum_rows
from taskloom.algebra.core import Grain, Need, Stack, Step, Weights
from taskloom.algebra.threads import one_thread
from taskloom.errors import CheckpointError, NumericalError
from taskloom.lazy import Tensor, torch

#: how a Fisher that is nearly zero is kept from vanishing: all experts', the first one's only, by adding
Floored = Literal["all", "first", "added"]


def _weights_of(stack: Stack, weights: Weights | None) -> Tensor:
    """One number per expert, ``(K,)``."""
    if weights is None:
        count = len(stack.values)
        return torch.ones(count, dtype=stack.values.dtype, device=stack.values.device)
    return resolve_weights(weights, stack.experts, stack.values)


def number(table: Mapping[str, str], key: str, expert: str, kind: str) -> float:
    """Return a positive number from the header of a statistic.

    Raises
    ------
    CheckpointError
        It is not there, or is no number above 0.
    """
    try:
        found = float(table[key])
    except (KeyError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise CheckpointError(
            f"statistic {kind!r} of the expert {expert!r}: expected a number above 0 under {key!r} in "
            f"the header, found {table.get(key)!r}",
            hint="Collect the statistic again",
        )
    return found


def mean_by_fisher(
    weights: Weights | None = None,
    *,
    floor: float = 1e-6,
    floored: Floored = "all",
    normalize: bool = False,
) -> Step:
    """Mean over experts, entry by entry, weighted by each expert's diagonal Fisher information.

    Parameters
    ----------
    weights
        One per expert, multiplied with its Fisher; equal if None.
    floor
        Smallest Fisher; with ``floored="added"`` it is added to every one instead.
    floored
        Whose Fisher the floor holds for.
    normalize
        Divide each expert's weight by the Euclidean norm of its whole Fisher (``norm`` in the header);
        with ``"added"`` by norm + floor.
    """
    if not (math.isfinite(floor) and floor >= 0):
        raise ValueError(f"floor must be a finite number of 0 or more, not {floor!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        fisher = stack.statistics["fisher"]
        if bool((fisher < 0).any()):
            raise NumericalError(
                f"the Fisher of tensor {stack.name!r} has values below 0, and a mean of squares none",
                hint="Collect the statistic 'fisher' again",
            )
        shares = _weights_of(stack, weights).double()
        if normalize:
            more = floor if floored == "added" else 0.0
            norms = [
                number(table, "norm", expert, "fisher") + more
                for table, expert in zip(stack.tables["fisher"], stack.experts, strict=True)
            ]
            shares = shares / torch.tensor(norms, dtype=torch.float64, device=shares.device)
        shares = (shares / shares.abs().max()).to(fisher.dtype)
        if floored == "added":
            fisher = fisher + floor
        elif floored == "all":
            fisher = fisher.clamp(min=floor)
        else:
            fisher = torch.cat([fisher[:1].clamp(min=floor), fisher[1:]])
        column = shares.reshape(-1, *[1] * (fisher.ndim - 1))
        importance = fisher * column
        total = sum_rows(importance)
        nobody = total == 0
        parts = torch.where(
            nobody, column / sum_rows(column), importance / torch.where(nobody, 1.0, total)
        )
        return stack.with_values(sum_rows(stack.values * parts))

    inside = ", ".join([f"{floor:g}", *(["normalized"] if normalize else [])])
    need = (Need("fisher"),)
    return Step(f"mean_by_fisher({inside})", apply, weights=weights, needs=need, workspace=_weighted)


def _weighted(shape: tuple[int, ...], count: int) -> int:
    """Bytes of the floored Fisher, of it weighted, of its shares, of what they make; sum and marks."""
    return (16 * count + 5) * math.prod(shape)


def regress(weights: Weights | None = None, *, off_diagonal: float = 0.9, ridge: float = 1e-6) -> Step:
    """Merge linear layers so that outputs stay what the experts' were: least squares on their inputs.

    Parameters
    ----------
    weights
        One per expert, multiplied with its Gram matrix; equal if None.
    off_diagonal
        Factor of the entries off the diagonal: 1 is least squares, 0 a mean weighted by the diagonals.
    ridge
        Added to every Gram matrix's diagonal, in units of the mean of all diagonals: where no expert
        saw any input, the result is their mean.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be a finite number of 0 or more, not {ridge!r}")

    def apply(stack: Stack, _: Any) -> Stack:
        if stack.values.ndim != 3:
            raise CheckpointError(
                f"statistic 'gram': tensor {stack.name!r} has the shape {list(stack.values.shape[1:])}, "
                "and only matrices have a Gram matrix of their inputs",
                hint="Collect it again",
            )
        turned = _turned(stack)
        layers = (stack.values if turned else stack.values.transpose(1, 2)).double()  # (K, in, out)
        grams = stack.statistics["gram"].double()
        if grams.shape[1:] != (layers.shape[1], layers.shape[1]):
            raise CheckpointError(
                f"statistic 'gram': tensor {stack.name!r}: expected shape "
                f"{[layers.shape[1], layers.shape[1]]}, found {list(grams.shape[1:])}",
                hint="Collect it on these experts",
            )
        shares = _weights_of(stack, weights).double()
        eye = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
        diagonal = float((grams.diagonal(dim1=1, dim2=2).mean(1) * shares).mean())
        if not diagonal > 0:
            diagonal = 1.0
        left = torch.zeros_like(grams[0])
        right = torch.zeros_like(layers[0])
        with one_thread():
            for share, gram, layer in zip(shares, grams, layers, strict=True):
                used = (
                    share * (gram * (off_diagonal + (1 - off_diagonal) * eye)) + ridge * diagonal * eye
                )
                left = left + used
                right = right + used @ layer
            solved = _solve(left, right, stack.name)
        merged = solved if turned else solved.T
        return stack.with_values(merged.to(stack.values.dtype).contiguous()[None])

    def workspace(shape: tuple[int, ...], count: int) -> int:
        rows, columns = shape[0], shape[-1]
        side = max(rows, columns)
        # Gram matrices, 1, their sum twice, one as it is used and three on the way; layers, their sum
        return 8 * ((count + 6) * side**2 + (count + 2) * rows * columns)

    return Step(
        f"regress({off_diagonal:g})",
        apply,
        Grain.MATRIX,
        weights=weights,
        needs=(Need("gram", "whole"),),
        workspace=workspace,
    )


def _turned(stack: Stack) -> bool:
    """Whether the weight is stored as (in, out), as GPT-2's are."""
    return any(stack.name in _names(t.get("transposed", "[]")) for t in stack.tables["gram"])


@lru_cache(64)
def _names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


def _solve(left: Tensor, right: Tensor, name: str) -> Tensor:
    try:
        solved: Tensor = torch.linalg.solve(left, right)
    except RuntimeError as error:
        raise NumericalError(
            f"the Gram matrices of tensor {name!r} add up to a singular matrix",
            hint="Collect them over more examples, or give a ridge above 0",
        ) from error
    return solved


def mask_mean(how: Literal["mean", "sum"] = "mean") -> Step:
    """Graft each expert's masked task vector on the base: ``(K, ...) -> (1, ...)``.

    Parameters
    ----------
    how
        Where masks overlap: ``"mean"`` of the changes of those that hold the entry, or their ``"sum"``.

    """

    def apply(stack: Stack, _: Any) -> Stack:
        mask = (stack.statistics["graft"] != 0).to(stack.values.dtype)
        summed = sum_rows(stack.values * mask)
        if how == "sum":
            return stack.with_values(summed)
        return stack.with_values(summed / sum_rows(mask).clamp(min=1))

    return Step(f"graft({how})", apply, needs=(Need("graft"),), workspace=_grafted)


def _grafted(shape: tuple[int, ...], count: int) -> int:
    """Bytes of the masks as numbers, of what they leave, of how many there are and of the sum."""
    return (8 * count + 12) * math.prod(shape)
