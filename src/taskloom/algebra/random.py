"""Random numbers keyed by what they are for, never by when they are drawn.

The uniform number of an element depends on (seed, tensor name, expert, index) alone: the same for
any slicing, any order of tensors, any number of threads. Philox 4x64-10 (Salmon et al., SC 2011) is
counter based, so a slice can start anywhere.
"""

from __future__ import annotations

import hashlib

import numpy as np

from taskloom.lazy import Tensor, torch

_BLOCK = 8  # 32-bit numbers per Philox counter


def uniform_bits(seed: int, tensor: str, expert: str, start: int, count: int) -> Tensor:
    """Return ``count`` uniform 32-bit integers (int64 tensor) for elements start..start+count.

    Examples
    --------
    >>> whole = uniform_bits(0, "w", "a", 0, 100)
    >>> torch.equal(whole[37:50], uniform_bits(0, "w", "a", 37, 13))
    True
    """
    text = f"{seed}\0{tensor}\0{expert}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], dtype=np.uint64)
    generator = np.random.Philox(key=key)
    block, skip = divmod(start, _BLOCK)
    generator.advance(block)
    raw = np.asarray(generator.random_raw((skip + count + 1) // 2), dtype="<u8")
    return torch.from_numpy(raw.view("<u4")[skip : skip + count].astype(np.int64))


def bernoulli(p: float, seed: int, tensor: str, expert: str, start: int, count: int) -> Tensor:
    """Return ``(count,)`` booleans, each True with probability ``p`` (to 2**-32)."""
    return uniform_bits(seed, tensor, expert, start, count) < round(p * 2**32)
