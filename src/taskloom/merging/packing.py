"""Bits packed eight to a byte, written as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.store.writer import SafetensorsWriter


class Packer:
    """Bits of one tensor, packed eight to a byte, the first in the highest place.

    Parameters
    ----------
    writer, name
        File and tensor that take the bytes.
    """

    def __init__(self, writer: SafetensorsWriter, name: str) -> None:
        self._writer, self._name, self._offset = writer, name, 0
        self._left: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def add(self, bits: NDArray[Any]) -> None:
        """Take the next bits; write those that fill bytes."""
        bits = np.concatenate([self._left, bits]) if self._left.size else bits
        whole = len(bits) // 8 * 8
        self._put(np.packbits(bits[:whole]))
        self._left = bits[whole:]

    def end(self) -> None:
        """Write what is left, filled up with zeros."""
        self._put(np.packbits(self._left))
        self._writer.finished(self._name)

    def _put(self, packed: NDArray[np.uint8]) -> None:
        if packed.size:
            self._writer.write_slice(self._name, self._offset, packed.data)
            self._offset += packed.size
