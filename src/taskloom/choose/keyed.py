"""Numbers fixed by what a text or a vector says: who it is, and a draw that is its own.

The same content has the same number wherever it stands, so that neither the order of a pool, nor how it
is cut into chunks, nor how many processes share the work changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]


def digests(items: Iterable[str] | NDArray[np.floating]) -> Digests:
    """Return a 64-bit digest of every text, or of every row of a matrix: ``(N,)`` uint64.

    Two different items share a digest with probability 2**-64.

    >>> first, second, third = digests(["a", "b", "a"]).tolist()
    >>> first == third, first == second
    (True, False)
    """
    if isinstance(items, np.ndarray):
        parts: Iterable[bytes] = (row.tobytes() for row in np.ascontiguousarray(items))
    else:
        parts = (text.encode("utf-8", "surrogatepass") for text in items)
    joined = b"".join(blake2b(part, digest_size=8).digest() for part in parts)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def uniform(keys: Digests, seed: int) -> NDArray[np.float64]:
    """Return a number in (0, 1) for every key, fixed by key and seed: ``(N,)``.

    The key is mixed with the seed by SplitMix64 (Steele, Lea & Flood 2014); 53 bits are kept.

    >>> draws = uniform(digests([str(n) for n in range(10_000)]), 0)
    >>> bool(abs(draws.mean() - 0.5) < 0.01 and draws.min() > 0 and draws.max() < 1)
    True
    """
    with np.errstate(over="ignore"):
        state = keys + _mixed(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        mixed = _mixed(state)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def gumbel(keys: Digests, seed: int) -> NDArray[np.float64]:
    """Return a standard Gumbel draw for every key, as `uniform`: ``-ln(-ln u)``.

    >>> draws = gumbel(digests([str(n) for n in range(10_000)]), 0)
    >>> bool(abs(draws.mean() - 0.5772) < 0.04)
    True
    """
    found: NDArray[np.float64] = -np.log(-np.log(uniform(keys, seed)))
    return found


def _mixed(state: Digests) -> Digests:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Digests = state ^ (state >> np.uint64(31))
    return found
