"""Entries of a tensor that are marked by bits: how parts of tasks keep a change of few weights.

Beside a tensor ``NAME`` of n entries there are ``NAME#bits``, uint8 ``(ceil(n / 8),)`` with the first
entry in the highest place of the first byte, and ``NAME#values``, the marked entries in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch
from taskloom.store.access import info_of, row_range
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import combine_digests, tensor_digest
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: what a key has behind the tensor's name
BITS, VALUES = "#bits", "#values"


def packed(marks: Tensor) -> Tensor:
    """Return marks as bits, eight to a byte: uint8 ``(ceil(n / 8),)``.

    >>> packed(torch.tensor([True, False, False, False, False, False, False, True, True]))
    tensor([129, 128], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(marks.reshape(-1).numpy()))


def unpacked(bits: Tensor, count: int) -> Tensor:
    """Return the marks of bits: bool ``(count,)``.

    >>> unpacked(torch.tensor([129], dtype=torch.uint8), 8).long()
    tensor([1, 0, 0, 0, 0, 0, 0, 1])
    """
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool()


def marks_between(file: SafetensorsCheckpoint, name: str, start: int, stop: int) -> Tensor:
    """Return marks ``start`` to ``stop`` of the packed ones that a file has by a name, 1-d: bool."""
    bits = file.read_range(name, start // 8, -(-stop // 8)).reshape(-1)
    return unpacked(bits, start % 8 + stop - start)[start % 8 :]


def spread(bits: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a shape that has the values where the bits are set, and 0 elsewhere.

    Values beyond the bits are not looked at.

    >>> spread(torch.tensor([160], dtype=torch.uint8), torch.tensor([2.0, 3.0]), (2, 2))
    tensor([[2., 0.],
            [3., 0.]])
    """
    info = TensorInfo(shape, values.dtype)
    marks = unpacked(bits, info.numel)
    found = torch.zeros(info.numel, dtype=values.dtype)
    found[marks] = values[: int(marks.sum())]
    return found.reshape(shape)


class PackedMarks:
    """Where the tensors of a model are marked, unpacked when it is read: a checkpoint of bools.

    Parameters
    ----------
    path
        File with ``NAME#bits`` of every tensor that has a mark.
    shapes
        Of all tensors, in order; one without bits has no mark.
    label
        How messages call it.

    Raises
    ------
    CheckpointError
        Bits that do not fit a shape, or of a tensor that there is none of.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], label: str) -> None:
        self._file, self._label = SafetensorsCheckpoint(path), label
        self._tensors = {name: TensorInfo(tuple(shape), "bool") for name, shape in shapes.items()}
        for key, found in self._file.tensors.items():
            name, _, kind = key.rpartition("#")
            if f"#{kind}" != BITS:
                continue
            info = self._tensors.get(name)
            if info is None or found != TensorInfo((-(-info.numel // 8),), "uint8"):
                raise CheckpointError(
                    f"{path}: {key!r} has not a bit for each entry of a tensor that is known",
                    hint="Write the file again",
                )

    @property
    def label(self) -> str:
        """How messages call it."""
        return self._label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape by name; all are bools."""
        return self._tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return self._file.files

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the marks of a tensor, or of rows of it."""
        info = info_of(self._tensors, name, self._label)
        if rows is None:
            return self.read_range(name, 0, info.numel).reshape(info.shape)
        first, last = row_range(name, info.shape, rows)
        row = info.numel // info.shape[0] if info.shape[0] else 0
        return self.read_range(name, first * row, last * row).reshape(last - first, *info.shape[1:])

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return the marks of elements ``start`` to ``stop`` of the flattened tensor, 1-d."""
        info_of(self._tensors, name, self._label)
        if name + BITS not in self._file.tensors or start >= stop:
            return torch.zeros(max(0, stop - start), dtype=torch.bool)
        return marks_between(self._file, name + BITS, start, stop)

    def digest(self) -> str:
        """SHA-256 over names, shapes and marks, as a file of bools has."""
        return combine_digests(
            (name, info, tensor_digest(self.read(name))) for name, info in self._tensors.items()
        )
