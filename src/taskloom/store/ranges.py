"""Ranges of bytes of safetensors files whose headers were read before, into memory that is there."""

from __future__ import annotations

import os
from pathlib import Path

from taskloom.errors import CheckpointError
from taskloom.store.header import Header


def open_unchanged(header: Header) -> int:
    """Return a descriptor of a header's file.

    Raises
    ------
    CheckpointError
        It cannot be read, or has changed since its header was read.
    """
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
        raise changed(header)
    return descriptor


def changed(header: Header) -> CheckpointError:
    """Say that a file is not the one whose header was read."""
    return CheckpointError(
        f"{header.path}: the file changed while it was in use",
        hint="Open the checkpoint again once nothing writes to it",
    )


def read_into(descriptor: int, offset: int, into: memoryview, label: Path, tensor: str) -> None:
    """Fill a buffer from a file, or say how much was there."""
    done = 0
    while done < len(into):
        try:
            count = os.preadv(descriptor, [into[done:]], offset + done)
        except OSError as error:
            raise CheckpointError(
                f"{label}: tensor {tensor!r} cannot be read: {error.strerror or error}",
                hint="Check the disk",
            ) from error
        if not count:
            raise CheckpointError(
                f"{label}: tensor {tensor!r}: expected {len(into)} bytes, found {done}",
                hint="The file was cut short; get it again from its source",
            )
        done += count
