"""Memory that was let go of, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


@lru_cache
def _trim() -> Callable[[int], Any] | None:
    """Return what glibc has for it; other libraries have nothing, and need it less."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


@contextmanager
def giving_back() -> Iterator[None]:
    """Give back what a block let go of, which the allocator would keep for the thread that runs it.

    Else every thread would keep what its largest tensor took, although one is worked on at a time.
    """
    try:
        yield
    finally:
        trim = _trim()
        if trim is not None:
            trim(0)
