"""K-means of many vectors in memory for one block of distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CELLS = 1 << 22  # distances that are held at once


def cluster(
    vectors: Floats, clusters: int, *, rounds: int, seed: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Cluster vectors by Lloyd's rounds; return the centres ``(C, D)`` and their sizes ``(C,)``.

    Starts at different vectors, drawn with the seed; C is at most the number of different vectors. A
    centre that loses all its vectors is dropped. Ends when nothing moves.

    >>> centres, sizes = cluster(np.array([[0.0], [0.2], [5.0]]), 2, rounds=10, seed=0)
    >>> sorted(zip(centres[:, 0].round(6).tolist(), sizes.tolist()))
    [(0.1, 2), (5.0, 1)]
    """
    different = np.unique(vectors, axis=0)
    count = min(clusters, len(different))
    start = np.random.default_rng(seed).choice(len(different), count, replace=False)
    centres = different[np.sort(start)]
    nearest = assign(vectors, centres)
    for _ in range(rounds):
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        sizes = np.bincount(nearest, minlength=len(centres))
        centres = sums[sizes > 0] / sizes[sizes > 0, None]
        moved = assign(vectors, centres)
        if len(centres) == len(sizes) and np.array_equal(moved, nearest):
            break
        nearest = moved
    sizes = np.bincount(nearest, minlength=len(centres))
    return centres[sizes > 0], sizes[sizes > 0]


def assign(vectors: Floats, centres: Floats) -> NDArray[np.int64]:
    """Return the number of the nearest centre of every vector, ``(N,)``; of equals the first.

    >>> assign(np.array([[0.0], [4.0]]), np.array([[1.0], [3.0]])).tolist()
    [0, 1]
    """
    lengths = (centres * centres).sum(1)
    step = max(1, _CELLS // len(centres))
    parts = [
        (lengths - 2 * vectors[at : at + step] @ centres.T).argmin(1)
        for at in range(0, len(vectors), step)
    ]
    return np.concatenate(parts)
