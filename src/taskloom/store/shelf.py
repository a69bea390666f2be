"""Files of a model by name: in a directory, or below an address of an object store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from taskloom.store.remote import find_object, read_object, without_password

_CHUNK = 1 << 23


class Shelf(Protocol):
    """What a model's files are read from; ``label`` is the place, for messages."""

    @property
    def label(self) -> str:
        """The directory or address."""
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes of a file, fewer where it ends."""
        ...


@dataclass(frozen=True)
class LocalShelf:
    """The files of a directory."""

    folder: Path

    @property
    def label(self) -> str:
        """The directory."""
        return str(self.folder)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes of a file."""
        with (self.folder / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


@dataclass(frozen=True)
class RemoteShelf:
    """The objects below an address."""

    url: str

    @property
    def label(self) -> str:
        """The address, without a password."""
        return without_password(self.url)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""
        found = find_object(f"{self.url}/{name}")
        return None if found is None else found.size

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes of an object."""
        found = find_object(f"{self.url}/{name}")
        if found is None:
            return b""
        return read_object(found, start, min(stop, found.size), "file")


def shelf_of(place: Path | str) -> Shelf:
    """Return the files of a directory, or of an address if ``place`` is text."""
    return RemoteShelf(place.rstrip("/")) if isinstance(place, str) else LocalShelf(place)


def shelf_digest(shelf: Shelf, name: str) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    state, size = hashlib.sha256(), shelf.size(name) or 0
    for start in range(0, size, _CHUNK):
        state.update(shelf.read(name, start, start + _CHUNK))
    return state.hexdigest()


def header_digest(shelf: Shelf, name: str) -> str:
    """Return the SHA-256 of the header of a safetensors file, with its length and its padding."""
    length = shelf.read(name, 0, 8)
    header = shelf.read(name, 8, 8 + int.from_bytes(length, "little"))
    return hashlib.sha256(length + header).hexdigest()
