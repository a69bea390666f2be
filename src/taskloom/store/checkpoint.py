"""What the rest of the house knows of weights: names, shapes, dtypes, and lazy reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from taskloom.lazy import Tensor, torch

#: name of a dtype -> bytes of one element
_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e8m0fnu": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
}


class TensorInfo:
    """Shape and dtype of a stored tensor, known without reading it; immutable.

    Parameters
    ----------
    shape
        Sizes of its axes.
    dtype
        A dtype of torch or its name; kept as a name, so that headers are read without torch.

    >>> info = TensorInfo((2, 3), "bfloat16")
    >>> info.nbytes, info.dtype, info == TensorInfo((2, 3), torch.bfloat16)
    (12, torch.bfloat16, True)
    """

    __slots__ = ("kind", "numel", "shape")

    shape: tuple[int, ...]
    #: name of the dtype, such as ``bfloat16``
    kind: str
    #: number of elements (1 for a scalar)
    numel: int

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype | str) -> None:
        kind = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "numel", math.prod(shape))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a TensorInfo is immutable; {name} stays what it is")

    def __reduce__(self) -> tuple[type[TensorInfo], tuple[tuple[int, ...], str]]:
        return TensorInfo, (self.shape, self.kind)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorInfo):
            return NotImplemented
        return self.shape == other.shape and self.kind == other.kind

    def __hash__(self) -> int:
        return hash((self.shape, self.kind))

    def __repr__(self) -> str:
        return f"TensorInfo(shape={self.shape}, dtype=torch.{self.kind})"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of torch."""
        found: torch.dtype = getattr(torch, self.kind)
        return found

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        known = _SIZES.get(self.kind)
        return self.dtype.itemsize if known is None else known

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.kind.startswith(("float", "bfloat"))

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes."""
        return self.numel * self.itemsize


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
