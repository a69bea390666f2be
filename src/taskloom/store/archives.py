"""Files inside archives: wheels, source archives, npm and Debian packages, opened as data."""

from __future__ import annotations

import contextlib
import io
import lzma
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Protocol

from taskloom.errors import DataError, nearest

_AR_MAGIC = b"!<arch>\n"
_AR_ENTRY = 60
_IN_MEMORY = 256 * 2**20  # bytes of an unpacked Debian package that are not put on disk
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


class Archive(Protocol):
    """Regular files by name; names are relative, with forward slashes, and stay inside."""

    def names(self) -> list[str]:
        """Every file, in stored order."""
        ...

    def links(self) -> frozenset[str]:
        """Those of the names that only point to another file."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        ...


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a ``.whl``, ``.zip``, ``.deb`` or (compressed) tar file.

    Raises
    ------
    DataError
        The archive is damaged, names files outside itself, or is compressed in a way that this
        Python cannot read.
    """
    try:
        if path.suffix in {".whl", ".zip"}:
            with zipfile.ZipFile(path) as zipped:
                yield _Zip(path, zipped)
        elif path.suffix == ".deb":
            with _debian_data(path) as data, tarfile.open(fileobj=data, mode="r:*") as tar:
                yield _Tar(path, tar)
        else:
            with tarfile.open(path, mode="r:*") as tar:
                yield _Tar(path, tar)
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: the archive cannot be read: {reason}", hint="Remove it and fetch it again"
        ) from error


def read_member(path: Path, name: str) -> bytes:
    """Return the bytes of one file of an archive.

    Raises
    ------
    DataError
        As `open_archive`, or there is no such file; the message has the nearest name.
    """
    with open_archive(path) as archive:
        names = archive.names()
        if name not in names:
            guess = nearest(name, names)
            raise DataError(
                f"{path.name}: expected the file {name!r} in it, found none",
                hint=f"The nearest name is {guess!r}" if guess else "Check the name",
            )
        with archive.open(name) as file:
            return file.read()


class _Zip:
    def __init__(self, path: Path, zipped: zipfile.ZipFile) -> None:
        self._zipped = zipped
        self._entries = {
            _safe(path, entry.filename): entry for entry in zipped.infolist() if not entry.is_dir()
        }

    def names(self) -> list[str]:
        return list(self._entries)

    def links(self) -> frozenset[str]:
        return frozenset()

    def open(self, name: str) -> IO[bytes]:
        return self._zipped.open(self._entries[name])


class _Tar:
    """A tar file; a link to another of its files counts as a copy of that file."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        self._entries = {
            _safe(path, entry.name): entry
            for entry in tar.getmembers()
            if entry.isreg() or entry.islnk() or entry.issym()
        }

    def names(self) -> list[str]:
        return list(self._entries)

    def links(self) -> frozenset[str]:
        return frozenset(name for name, entry in self._entries.items() if not entry.isreg())

    def open(self, name: str) -> IO[bytes]:
        entry = self._entries[name]
        try:
            file = self._tar.extractfile(entry)
        except KeyError:
            file = None
        if file is None:
            raise DataError(
                f"{self._path.name}: {name!r} is a link to {entry.linkname!r}, "
                "which is no file of the archive",
                hint="Name the file itself",
            )
        return file


def _safe(path: Path, name: str) -> str:
    """Return the name without a leading ``./``, or refuse one that leaves the archive."""
    parts = PurePosixPath(name).parts
    leaves = name.startswith("/") or ".." in parts or PureWindowsPath(name).drive
    if not parts or leaves or "\\" in name or "\0" in name:
        raise DataError(
            f"{path.name}: the archive names a file outside itself, {name!r}",
            hint="Do not use this package",
        )
    return "/".join(parts)


def _debian_data(path: Path) -> IO[bytes]:
    """Return the tar file with a Debian package's data, which lies in an ``ar`` archive.

    It is unpacked from xz as a whole, on disk if large, so that its files can be read in any order.
    """
    with path.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise DataError(f"{path}: expected a Debian package, found none", hint="Fetch it again")
        while len(entry := file.read(_AR_ENTRY)) == _AR_ENTRY:
            name = entry[:16].decode("latin-1").strip().rstrip("/")
            size = _ar_size(path, entry)
            if name.startswith("data.tar"):
                _refuse_zstd(path, name)
                data = file.read(size)
                if len(data) != size:
                    raise DataError(
                        f"{path}: expected {size} bytes of {name}, found {len(data)}",
                        hint="The package was cut short; fetch it again",
                    )
                return _unpacked_xz(data) if name.endswith(".xz") else io.BytesIO(data)
            file.seek(size + size % 2, io.SEEK_CUR)
    raise DataError(
        f"{path}: expected data.tar in the Debian package, found none", hint="Fetch it again"
    )


def _unpacked_xz(data: bytes) -> IO[bytes]:
    unpacked = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (the caller closes it)
    try:
        with lzma.open(io.BytesIO(data)) as source:
            shutil.copyfileobj(source, unpacked)
        unpacked.seek(0)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _ar_size(path: Path, entry: bytes) -> int:
    digits = entry[48:58].strip()
    if entry[58:] != b"`\n" or not digits.isdigit():
        raise DataError(f"{path}: the Debian package is damaged", hint="Fetch it again")
    return int(digits)


def _refuse_zstd(path: Path, name: str) -> None:
    if name.endswith(".zst") and sys.version_info < (3, 14):
        raise DataError(
            f"{path}: the package is compressed with zstandard, which Python "
            f"{sys.version_info.major}.{sys.version_info.minor} cannot read",
            hint="Use Python 3.14 or newer, or a package compressed with xz",
        )
