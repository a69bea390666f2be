"""The model of one task from a shared model and what is exclusive to the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.spectral import one_thread
from taskloom.algebra.twin import rows_of, sides
from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch
from taskloom.merging.by_range import digest_of, range_of, read_rows
from taskloom.merging.exclusive import LEFT, RIGHT
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.sparse import BITS, VALUES, marks_between

#: how many bits of a byte are set
_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.int64)


class ExclusiveTask:
    """The model of one task, made lazily: the shared model plus factors, or plus sparse entries.

    Parameters
    ----------
    folder
        That ``taskloom.merge_parts`` wrote, or ``taskloom fit graft``.
    shared
        File of the shared model in it; the base itself where that is what is shared.
    own
        File of the task.
    task
        Its name.

    Raises
    ------
    CheckpointError
        Files that are missing, or parts that do not fit the shared model.
    """

    def __init__(self, folder: Path, shared: str | Checkpoint, own: str, task: str) -> None:
        self._folder, self._task = folder, task
        if isinstance(shared, str):
            self._shared: Checkpoint = SafetensorsCheckpoint(folder / shared)
            self._path: Path | None = folder
        else:
            self._shared, self._path = shared, getattr(shared, "path", None)
        whose = shared if isinstance(shared, str) else shared.label
        self._own = SafetensorsCheckpoint(folder / own)
        self._counts: dict[str, NDArray[np.int64]] = {}
        for key, info in self._own.tensors.items():
            name, _, kind = key.partition("#")
            if not self._fits(name, f"#{kind}" if kind else "", info):
                raise CheckpointError(
                    f"{folder / own}: {key!r} is no part of a tensor of {whose}",
                    hint="Write the parts again",
                )

    def _fits(self, name: str, kind: str, info: TensorInfo) -> bool:
        whole = self._shared.tensors.get(name)
        if whole is None:
            return False
        other = {LEFT: RIGHT, RIGHT: LEFT, BITS: VALUES, VALUES: BITS}.get(kind)
        if other is None:
            return not kind and info == whole
        pair = self._own.tensors.get(name + other)
        if pair is None:
            return False
        if kind == BITS:
            return info == TensorInfo((-(-whole.numel // 8),), "uint8")
        if kind == VALUES:
            return info.kind in (whole.kind, "float32") and len(info.shape) == 1
        if len(whole.shape) < 2 or len(info.shape) != 2 or len(pair.shape) != 2:
            return False
        rows, columns = sides(whole.shape)
        left, right = (info, pair) if kind == LEFT else (pair, info)
        return left.shape == (rows, right.shape[0]) and right.shape[1] == columns

    @property
    def label(self) -> str:
        """Folder and task."""
        return f"{self._folder}#{self._task}"

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The shared model's."""
        return self._shared.tensors

    @property
    def path(self) -> Path | None:
        """The folder whose configuration and tokenizer fit."""
        return self._path

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read: of the shared model and of the task."""
        shared: tuple[Path, ...] = getattr(self._shared, "files", ())
        return (*shared, *self._own.files)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or rows of it, in its dtype."""
        return read_rows(name, self.tensors[name], rows, self.read_range)

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor."""
        known = self._own.tensors
        if name in known:
            return self._own.read_range(name, start, stop).reshape(-1)
        shared = range_of(self._shared, name, start, stop)
        wide = torch.promote_types(shared.dtype, torch.float32)
        if name + LEFT in known:
            with one_thread(), torch.no_grad():
                pair = (self._own.read(name + LEFT), self._own.read(name + RIGHT))
                change = rows_of(pair, start, stop).to(wide)
        elif name + BITS in known:
            change = self._entries(name, start, stop).to(wide)
        else:
            return shared
        return (shared.to(wide) + change).to(shared.dtype)

    def _entries(self, name: str, start: int, stop: int) -> Tensor:
        """Return a slice of a sparse part, written out."""
        marks = marks_between(self._own, name + BITS, start, stop)
        first = self._before(name, start)
        values = self._own.read_range(name + VALUES, first, first + int(marks.sum())).reshape(-1)
        found = torch.zeros(stop - start, dtype=values.dtype)
        found[marks] = values
        return found

    def _before(self, name: str, start: int) -> int:
        """Return how many entries lie before ``start``, from counts that are made once."""
        if name not in self._counts:
            packed = self._own.read(name + BITS).numpy()
            self._counts[name] = np.cumsum(_ONES[packed], dtype=np.int64)  # threads may do it twice
        byte, rest = divmod(start, 8)
        before = int(self._counts[name][byte - 1]) if byte else 0
        if not rest:
            return before
        last = int(self._own.read_range(name + BITS, byte, byte + 1).item())
        return before + (last >> (8 - rest)).bit_count()

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes of the task's model."""
        return digest_of(self)
