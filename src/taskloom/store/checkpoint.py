"""What the rest of the house knows of weights: names, shapes, dtypes, and lazy reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of elements (1 for a scalar)."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes."""
        return self.numel * self.dtype.itemsize


@runtime_checkable
class Checkpoint(Protocol):
    """Names -> tensors, read lazily. Safe to read from several threads at once."""

    @property
    def label(self) -> str:
        """How messages call it: a path, a hub id with revision, or ``<memory>``."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype in stored order; a tied tensor is listed once."""
        ...

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor, or the given rows along its first axis, in its stored dtype."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) over names, shapes, dtypes and bytes; equal weights, equal digest."""
        ...
