"""Weighted sums of LoRA factors on their base, made anew for every candidate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from taskloom.algebra.add_factors import sum_factors
from taskloom.algebra.core import Pair
from taskloom.errors import PlanError
from taskloom.learn.probe import Weights
from taskloom.learn.problem import Problem
from taskloom.store.adapter import AdapterCheckpoint


class AdapterMixer:
    """The weights that the merging method ``lorahub`` gives, of what adapters change.

    The factors stay in memory in float32; a full matrix is made for the candidate at hand alone.

    Parameters
    ----------
    on
        Its experts are adapters on its base.
    names
        The experts that take part.

    Raises
    ------
    PlanError
        An expert that is no adapter, or adapters whose ranks differ.
    """

    def __init__(self, on: Problem, names: tuple[str, ...]) -> None:
        self._base, self._names = on.base, names
        self._adapters = [_adapter(on, name) for name in names]
        low = {name for each in self._adapters for name in each.low_rank}
        dense = {name for each in self._adapters for name in each.whole}
        self._dense = tuple(name for name in on.base.tensors if name in dense)
        self._pairs = {
            name: [_pair(each, name) for each in self._adapters]
            for name in on.base.tensors
            if name in low - dense
        }
        for name, pairs in self._pairs.items():
            sum_factors(name, names, pairs, [0.0] * len(names))

    def __call__(self, weights: Mapping[str, float]) -> Weights:
        """Return every tensor that the adapters change, in the base's dtype."""
        numbers = [weights[name] for name in self._names]
        made: dict[str, Tensor] = {}
        for name, pairs in self._pairs.items():
            left, right = sum_factors(name, self._names, pairs, numbers)
            below = self._base.read(name)
            made[name] = (below.to(left.dtype) + left @ right).to(below.dtype)
        for name in self._dense:
            made[name] = self._whole(name, numbers)
        return made

    def _whole(self, name: str, numbers: list[float]) -> Tensor:
        below = self._base.read(name)
        if not below.dtype.is_floating_point:
            return below
        start = below.float()
        merged = start.clone()
        for number, each in zip(numbers, self._adapters, strict=True):
            if name in each.changed:
                merged += number * (each.read(name).float() - start)
        return merged.to(below.dtype)


def _adapter(on: Problem, name: str) -> AdapterCheckpoint:
    found = on.experts[name]
    if not isinstance(found, AdapterCheckpoint):
        raise PlanError(
            f"the expert {name!r} ({found.label}) is no LoRA adapter, and LoraHub adds up factors",
            hint="Give adapters, or let it add up whole changes (combine=changes)",
        )
    return found


def _pair(adapter: AdapterCheckpoint, name: str) -> Pair:
    """Return B and A in the base's orientation, alpha/r as part of B; rank 0 where nothing changes."""
    kept = adapter.factors(name)
    if kept is None:
        rows, columns = adapter.tensors[name].shape
        return torch.zeros(rows, 0), torch.zeros(0, columns)
    left, right, scaling = kept
    if name in adapter.embeddings or adapter.config.transposed:  # then the right one is B
        return left.float(), right.float() * scaling
    return left.float() * scaling, right.float()
