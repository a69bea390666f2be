"""Elements of stored tensors, read into memory that is there already, by many threads at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from taskloom.errors import CheckpointError
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.header import Header
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
            _fill(self._descriptor(header), at, into, header.path, name)
            return
        raw = self._scratch(into.numel() * dtype.itemsize)
        _fill(self._descriptor(header), at, raw, header.path, name)
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
                    found = self._open[header.path] = _start(header)
        return found


def _start(header: Header) -> int:
    try:
        descriptor = os.open(header.path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"{header.path}: cannot be read: {error.strerror or error}",
            hint="Check that the file is still there",
        ) from error
    stat = os.fstat(descriptor)
    if (stat.st_size, stat.st_mtime_ns, stat.st_ino) != header.mark:
        os.close(descriptor)
        raise CheckpointError(
            f"{header.path}: the file changed while it was in use",
            hint="Open the checkpoint again once nothing writes to it",
        )
    return descriptor


def _fill(descriptor: int, at: int, into: Tensor, path: Path, name: str) -> None:
    view = memoryview(into.view(torch.uint8).numpy().data)
    done = 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], at + done)
        except OSError as error:
            raise CheckpointError(
                f"{path}: tensor {name!r} cannot be read: {error.strerror or error}",
                hint="Check the disk",
            ) from error
        if not count:
            raise CheckpointError(
                f"{path}: tensor {name!r}: expected {len(view)} bytes, found {done}",
                hint="The file was cut short; get it again from its source",
            )
        done += count


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
