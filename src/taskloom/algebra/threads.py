"""Arithmetic whose last bit depends on the number of threads, on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from taskloom.lazy import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread within the block, so that a factorisation gives the same bits anywhere.

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
