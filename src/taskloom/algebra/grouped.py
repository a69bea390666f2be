"""Weigh task vectors by numbers that differ between tensors, or between parts of a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from taskloom.algebra.core import Stack, Step
from taskloom.algebra.layers import block_of
from taskloom.algebra.random import uniform_bits
from taskloom.errors import PlanError, nearest
from taskloom.lazy import Tensor, torch

#: what has a coefficient of its own: the expert, a layer, a tensor, or a random part of a tensor
Per = Literal["task", "layer", "tensor", "block"]
#: the numbers of one expert: one for all tensors, or by group; a group in parts has one for each
Numbers = float | Mapping[str, float | Sequence[float]]
#: the group of all tensors
ALL = "*"


def group_of(name: str, per: Per) -> str:
    """Return the group of a tensor, whose members share a coefficient.

    Parameters
    ----------
    name
        Of the tensor.
    per
        ``"task"``: all tensors are one group, ``*``. ``"layer"``: the numbered block
        (``encoder.layer.3``), or the first part of the name where there is none. ``"tensor"`` and
        ``"block"``: the tensor itself.

    Examples
    --------
    >>> name = "encoder.layer.3.output.dense.weight"
    >>> group_of(name, "task"), group_of(name, "layer"), group_of("embeddings.word.weight", "layer")
    ('*', 'encoder.layer.3', 'embeddings')
    """
    if per == "task":
        return ALL
    if per == "layer":
        return block_of(name) or name.split(".", 1)[0]
    return name


def part_of(tensor: str, start: int, count: int, parts: int, seed: int) -> Tensor:
    """Return which random part each of ``count`` elements from ``start`` belongs to, int64 ``(count,)``.

    The parts of a tensor depend on its name and the seed alone, and are the same for every expert.

    >>> part_of("w", 0, 8, 3, 0).tolist() == part_of("w", 0, 5, 3, 0).tolist() + (
    ...     part_of("w", 5, 3, 3, 0).tolist()
    ... )
    True
    """
    if parts == 1:
        return torch.zeros(count, dtype=torch.int64)
    return (uniform_bits(seed, tensor, "parts", start, count) * parts) >> 32


def weigh_groups(values: Mapping[str, Numbers], per: Per, *, parts: int = 1, seed: int = 0) -> Step:
    """Multiply each expert's row by the coefficient of the group that the tensor is in.

    Parameters
    ----------
    values
        Expert -> its numbers. Every group of the model must have one.
    per
        What a group is; see `group_of`.
    parts
        With ``"block"``: numbers of every tensor, each for a random part of its entries.
    seed
        Of the parts.
    """

    def apply(stack: Stack, _: Any) -> Stack:
        group = group_of(stack.name, per)
        rows = [_numbers(values[expert], group, expert, parts) for expert in stack.experts]
        table = torch.tensor(rows, dtype=stack.values.dtype, device=stack.values.device)
        flat = stack.values.reshape(len(rows), -1)
        if parts > 1:
            place = part_of(stack.name, stack.start, flat.shape[1], parts, seed)
            table = table[:, place.to(table.device)]
        return stack.with_values((flat * table).reshape(stack.values.shape))

    inside = f"{per}, {parts} parts" if parts > 1 else per
    # the names are held against the pool before anything is read
    return Step(f"weigh_groups({inside})", apply, weights=dict.fromkeys(values, 0.0))


def _numbers(given: Numbers, group: str, expert: str, parts: int) -> list[float]:
    """Return the ``parts`` numbers of an expert for a group."""
    found = given if isinstance(given, int | float) else given.get(group)
    if found is None:
        guess = nearest(group, given) if isinstance(given, Mapping) else None
        near = f"; the nearest is {guess!r}" if guess else ""
        raise PlanError(
            f"the expert {expert!r} has no coefficient for {group!r}{near}",
            hint="Give one for every group of the model",
        )
    several = [found] * parts if isinstance(found, int | float) else list(found)
    if len(several) != parts:
        raise PlanError(
            f"the expert {expert!r} has {len(several)} coefficients for {group!r}, expected {parts}",
            hint="Give one for each part, or set the number of parts",
        )
    return [float(each) for each in several]
