"""Rows of a stored tensor in an order of one's own: what places embeddings by token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taskloom.lazy import Tensor, torch
from taskloom.store.checkpoint import Checkpoint

Places = NDArray[np.int64]

#: rows read together although some between them are not wanted, and most rows read at once
GAP, ROWS = 16, 1024


def gather(source: Checkpoint, name: str, wanted: Places) -> Tensor:
    """Return the given rows in the given order; neighbours are read together.

    Parameters
    ----------
    wanted
        Numbers of stored rows, (N,), in any order, each as often as one likes.

    Returns
    -------
    ``(N, ...)`` in the stored dtype.

    >>> from taskloom.store.memory import MemoryCheckpoint
    >>> stored = MemoryCheckpoint({"w": torch.tensor([[0.0], [1.0], [2.0]])})
    >>> gather(stored, "w", np.array([2, 0, 2])).flatten().tolist()
    [2.0, 0.0, 2.0]
    """
    if not len(wanted):
        return source.read(name, slice(0, 0))
    rows, back = np.unique(wanted, return_inverse=True)
    pieces = []
    for run in _runs(rows):
        low = int(run[0])
        block = source.read(name, slice(low, int(run[-1]) + 1))
        pieces.append(block if len(run) == len(block) else block[torch.from_numpy(run - low)])
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined if np.array_equal(wanted, rows) else joined[torch.from_numpy(back)]


def placed(
    source: Checkpoint,
    name: str,
    places: Places,
    dtype: torch.dtype,
    default: Callable[[], Tensor],
) -> Tensor:
    """Return rows of a tensor where they are placed, and a default where none is.

    Parameters
    ----------
    places
        Number of the stored row that each is, (N,); -1 where there is none.
    default
        Gives ``(N, ...)`` rows of that dtype; asked only where a row is missing.
    """
    known = places >= 0
    if known.all():
        return gather(source, name, places).to(dtype)
    found = default()
    if known.any():
        found = found.clone()  # it may be a view of weights in memory
        found[torch.from_numpy(known)] = gather(source, name, places[known]).to(dtype)
    return found


def _runs(rows: Places) -> list[Places]:
    """Cut ascending row numbers where the next is far away, and where a run spans many rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1)
    return [
        part
        for run in runs
        for part in np.split(run, np.flatnonzero(np.diff((run - run[0]) // ROWS)) + 1)
    ]
