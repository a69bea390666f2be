"""Prune whole layers of task vectors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure, Op, Stack, Step, Summed
from taskloom.algebra.exact import ExactSums
from taskloom.lazy import torch

Layers = Literal["block", "tensor"]
#: tensor -> how many entries, and the sum of the magnitudes of every expert
_Seen = dict[str, tuple[int, ExactSums]]


def block_of(name: str) -> str:
    """Return the numbered block a tensor belongs to, empty if it is in none.

    >>> block_of("encoder.layer.3.output.dense.weight"), block_of("embeddings.word.weight")
    ('encoder.layer.3', '')
    """
    found = re.match(r"(?:.*?\.)??\d+(?=\.|$)", name)
    return found[0] if found else ""


def prune_layers(share: float, which: Literal["low", "high"] = "low", layers: Layers = "block") -> Step:
    """Set whole layers of each task vector to zero: those with the smallest mean magnitude.

    Costs one more read.

    Parameters
    ----------
    share
        ``int(share * L)`` of L layers are set to zero, for each expert alone. Equal means: the layer
        that comes first in natural order of names.
    which
        ``"high"`` prunes the largest means instead.
    layers
        ``"block"``: the tensors of one numbered block (``encoder.layer.3``) are one layer, tensors in no
        block (embeddings, heads) are left alone; in a model without numbered blocks, and with
        ``"tensor"``, every tensor is a layer.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is a share of the layers and must lie in [0, 1], not {share!r}")

    def see(acc: _Seen | None, stack: Stack) -> _Seen:
        sums = ExactSums.of(stack.values.detach().double().abs())
        return add(acc, Summed(stack.name, stack.values[0].numel(), stack.numel, sums))

    def add(acc: _Seen | None, seen: Summed) -> _Seen:
        return join(acc, {seen.name: (seen.count, seen.sums)})

    def join(one: _Seen | None, other: _Seen | None) -> _Seen:
        merged = dict(one or {})
        for name, (count, sums) in (other or {}).items():
            known = merged.get(name)
            merged[name] = (count, sums) if known is None else (count + known[0], sums + known[1])
        return merged

    def done(acc: _Seen) -> dict[str, NDArray[np.bool_]]:
        return _kept(acc, share, which, layers)

    def apply(stack: Stack, kept: dict[str, NDArray[np.bool_]]) -> Stack:
        marks = kept.get(stack.name)
        if marks is None or marks.all():
            return stack
        column = torch.from_numpy(marks).to(stack.values.device)
        return stack.with_values(stack.values * column.reshape(-1, *[1] * (stack.values.ndim - 1)))

    inside = ", ".join([f"{share:g}", which, *(["tensor"] if layers == "tensor" else [])])
    measure = Measure(1, lambda round_, previous: None, see, done, join, "sizes", add)
    return Step(f"prune_layers({inside})", apply, measure=measure, op=Op("weigh"))


def _kept(
    seen: _Seen, share: float, which: Literal["low", "high"], layers: Layers
) -> dict[str, NDArray[np.bool_]]:
    """Tensor -> ``(K,)`` whether each expert keeps it; tensors in no layer are absent."""
    blocks = {name: block_of(name) for name in seen}
    if layers == "tensor" or not any(blocks.values()):
        blocks = {name: name for name in seen}
    members: dict[str, list[str]] = {}
    for name, block in blocks.items():
        if block and seen[name][0]:
            members.setdefault(block, []).append(name)
    names = sorted(members, key=_natural)
    if not names:
        return {}
    means = np.stack([_mean(seen[name] for name in sorted(members[block])) for block in names])
    order = np.argsort(means if which == "low" else -means, axis=0, kind="stable")
    kept = np.ones(means.shape, dtype=np.bool_)
    np.put_along_axis(kept, order[: int(share * len(names))], values=False, axis=0)
    return {name: kept[row] for row, block in enumerate(names) for name in members[block]}


def _mean(parts: Iterable[tuple[int, ExactSums]]) -> NDArray[np.float64]:
    found = list(parts)
    total = found[0][1]
    for _, sums in found[1:]:
        total = total + sums
    mean: NDArray[np.float64] = total.values() / sum(count for count, _ in found)
    return mean


def _natural(name: str) -> list[tuple[int, str]]:
    """Order names as people do: layer.2 before layer.10.

    >>> sorted(["h.10", "h.2"], key=_natural)
    ['h.2', 'h.10']
    """
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
