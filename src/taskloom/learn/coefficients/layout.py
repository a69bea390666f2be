"""What has a coefficient: experts times groups of tensors, times parts of a tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskloom.algebra.grouped import Per, group_of
from taskloom.errors import PlanError
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.writer import write_safetensors


@dataclass(frozen=True)
class Layout:
    """The shape ``(K, G, P)`` of a table of coefficients, and what its places stand for.

    Attributes
    ----------
    experts
        K names, in pool order.
    tensors
        Names of the floating-point tensors of the base.
    per
        What a group is; see `taskloom.algebra.grouped.group_of`.
    parts
        P, more than 1 only with ``per="block"``.
    parts_seed
        Of the parts.
    """

    experts: tuple[str, ...]
    tensors: tuple[str, ...]
    per: Per
    parts: int = 1
    parts_seed: int = 0

    @classmethod
    def of(
        cls,
        experts: Iterable[str],
        infos: Mapping[str, TensorInfo],
        per: Per,
        *,
        parts: int = 1,
        parts_seed: int = 0,
    ) -> Layout:
        """Return the layout for a model.

        Raises
        ------
        PlanError
            Parts where groups are not blocks.
        """
        if parts > 1 and per != "block":
            raise PlanError(f"{parts} parts of a tensor go with per='block', not {per!r}")
        names = tuple(name for name, info in infos.items() if info.is_float)
        return cls(tuple(experts), names, per, parts, parts_seed)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """G names, in the order of the tensors."""
        return tuple(dict.fromkeys(group_of(name, self.per) for name in self.tensors))

    @cached_property
    def place(self) -> dict[str, int]:
        """Tensor -> index of its group."""
        numbers = {group: number for number, group in enumerate(self.groups)}
        return {name: numbers[group_of(name, self.per)] for name in self.tensors}

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(K, G, P)``."""
        return len(self.experts), len(self.groups), self.parts

    def full(self, start: float | Mapping[str, float]) -> Tensor:
        """Return a float64 table with one number everywhere, or one for each expert."""
        table = torch.empty(self.shape, dtype=torch.float64)
        for row, expert in zip(table, self.experts, strict=True):
            row.fill_(start[expert] if isinstance(start, Mapping) else start)
        return table

    def options(self, table: Tensor) -> dict[str, Any]:
        """Return the options of the merging method ``coefficients`` that a table stands for."""
        told = {name: self._numbers(row) for name, row in zip(self.experts, table.tolist(), strict=True)}
        options: dict[str, Any] = {"values": told, "per": self.per}
        if self.parts > 1:
            options |= {"parts": self.parts, "parts_seed": self.parts_seed}
        return options

    def _numbers(self, rows: list[list[float]]) -> float | dict[str, float | list[float]]:
        if self.per == "task":
            return rows[0][0]
        return {
            group: row[0] if self.parts == 1 else row
            for group, row in zip(self.groups, rows, strict=True)
        }

    def save(self, table: Tensor, path: str | os.PathLike[str]) -> Path:
        """Write a table as the safetensors file that the merging method ``coefficients`` takes.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        _, groups, parts = self.shape
        info = TensorInfo((groups, parts), "float64")
        header = {
            "format": "pt",
            "groups": json.dumps(self.groups),
            "per": self.per,
            "parts": str(parts),
            "parts_seed": str(self.parts_seed),
        }
        pairs = zip(self.experts, table.detach().double().contiguous(), strict=True)
        write_safetensors(path, dict.fromkeys(self.experts, info), pairs, header)
        return Path(path)
