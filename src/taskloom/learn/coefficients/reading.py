"""Elements of stored tensors, read into memory that is there already, by many threads at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from taskloom.store.checkpoint import Checkpoint
from taskloom.store.header import Header
from taskloom.store.ranges import open_unchanged, read_into
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


class Reading:
    """Open checkpoints; a context that closes their files.

    Tensors of safetensors files are read with ``pread`` to where they are wanted; other checkpoints are
    asked for the elements, or for the rows around them.

    Parameters
    ----------
    checkpoints
        Read by their number in this order.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._checkpoints = tuple(checkpoints)
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, number: int, name: str, start: int, into: Tensor) -> None:
        """Fill a flat, contiguous tensor with the elements of a tensor from ``start`` on.

        Raises
        ------
        CheckpointError
            No such tensor, or a file that is gone, was cut short, or is not the one that was opened.
        """
        checkpoint = self._checkpoints[number]
        if isinstance(checkpoint, SafetensorsCheckpoint):
            self._from_file(checkpoint, name, start, into)
        else:
            into.copy_(_elements(checkpoint, name, start, start + into.numel()))

    def _from_file(self, checkpoint: SafetensorsCheckpoint, name: str, start: int, into: Tensor) -> None:
        header, offset = checkpoint.locate(name)
        dtype = checkpoint.tensors[name].dtype
        at = offset + start * dtype.itemsize
        if dtype == into.dtype:
            read_into(self._descriptor(header), at, _bytes(into), header.path, name)
            return
        raw = self._scratch(into.numel() * dtype.itemsize)
        read_into(self._descriptor(header), at, _bytes(raw), header.path, name)
        into.copy_(raw.view(dtype))

    def _scratch(self, size: int) -> Tensor:
        """Return bytes of this thread's own, the same memory each time."""
        found: Tensor | None = getattr(self._local, "raw", None)
        if found is None or found.numel() < size:
            found = self._local.raw = torch.empty(size, dtype=torch.uint8)
        return found[:size]

    def _descriptor(self, header: Header) -> int:
        found = self._open.get(header.path)
        if found is None:
            with self._lock:
                found = self._open.get(header.path)
                if found is None:
                    found = self._open[header.path] = open_unchanged(header)
        return found


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy().data)


def _elements(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Tensor:
    """Return elements of any checkpoint, by the range or by the rows that hold them."""
    by_range = getattr(checkpoint, "read_range", None)
    if by_range is not None:
        found: Tensor = by_range(name, start, stop)
        return found.detach()
    info = checkpoint.tensors[name]
    if not info.shape:
        return checkpoint.read(name).detach().reshape(-1)
    row = info.numel // info.shape[0]
    first, last = start // row, -(-stop // row)
    rows = checkpoint.read(name, slice(first, last)).detach().reshape(-1)
    return rows[start - first * row : stop - first * row]
