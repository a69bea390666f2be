"""Where contributors and the server of a ColD fusion meet: a folder, or a folder of an object store.

Nothing but files goes to and fro. Below the place lie ``current.json`` (the open round and the digest of
its base), ``rounds/0003`` (the base of round 3, a model directory), ``rounds/0003.json`` (how round 3
ended) and ``contributions/0003/NAME`` (what NAME contributed to it).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from taskloom.errors import CheckpointError, OutputError
from taskloom.store.atomic import atomic_directory, atomic_file
from taskloom.store.lease import LOCK, Lease
from taskloom.store.objects import Objects
from taskloom.store.remote import is_url, local_path


class Exchange(Protocol):
    """A place to exchange files; names are relative, with slashes."""

    @property
    def label(self) -> str:
        """How messages call it."""
        ...

    def place(self, name: str) -> str:
        """Return the path or address of something in it."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file, None if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all, in place of what was there."""
        ...

    def names(self, name: str) -> list[str]:
        """Return what lies directly in a folder, sorted; nothing of what is being written."""
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none.

        Raises
        ------
        CheckpointError
            It is no file: a link, a device, a pipe.
        """
        ...

    def get(self, name: str, local: Path) -> None:
        """Copy a file to this machine."""
        ...

    def put(self, name: str, local: Path, last: str, *, replace: bool = False) -> None:
        """Write a folder, whole or not at all: it is there when its file ``last`` is.

        Raises
        ------
        OutputError
            It is there and may not be replaced, or cannot be written.
        """
        ...

    def held(self) -> AbstractContextManager[object]:
        """Hold the place as its server; a second one is refused."""
        ...


def open_exchange(place: str | Path) -> Exchange:
    """Return the exchange at a path, or at an address such as ``s3://bucket/folder``."""
    text = os.fspath(place)
    if is_url(text):
        local = local_path(text)
        return StoreExchange(text) if local is None else FolderExchange(local)
    return FolderExchange(Path(text))


class FolderExchange:
    """A folder that all reach, such as one on a network drive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()

    @property
    def label(self) -> str:
        """The path."""
        return str(self.folder)

    def place(self, name: str) -> str:
        """Return a path."""
        return str(self.folder / name)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file."""
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file and rename it into its place."""
        with atomic_file(self.folder / name) as temporary:
            temporary.write_bytes(data)

    def names(self, name: str) -> list[str]:
        """List a folder; hidden names are those that are being written."""
        try:
            found = os.listdir(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(each for each in found if not each.startswith("."))

    def size(self, name: str) -> int | None:
        """Return the bytes of a file that is no link, in a folder that is no link."""
        path = self.folder / name
        try:
            parent, found = os.lstat(path.parent), os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        for what, mode in ((path.parent, parent.st_mode), (path, found.st_mode)):
            if not (stat.S_ISREG(mode) if what is path else stat.S_ISDIR(mode)):
                raise CheckpointError(f"{what.name} is a link or a special file, not a plain one")
        return found.st_size

    def get(self, name: str, local: Path) -> None:
        """Copy a file, following no link."""
        shutil.copyfile(self.folder / name, local, follow_symlinks=False)

    def put(self, name: str, local: Path, last: str, *, replace: bool = False) -> None:
        """Copy a folder beside its place and rename it."""
        with atomic_directory(self.folder / name, overwrite=replace) as folder:
            shutil.copytree(local, folder, dirs_exist_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a lock that ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".server").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"{self.folder}: another server fuses here", hint="Wait for it, or stop it"
                ) from None
            yield


class StoreExchange:
    """A folder of an object store; the object ``last`` of a folder is written last."""

    def __init__(self, url: str) -> None:
        self._objects = Objects(url)

    @property
    def label(self) -> str:
        """The address, without a password."""
        return self._objects.label

    def place(self, name: str) -> str:
        """Return an address."""
        return f"{self._objects.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object."""
        return self._objects.read(name)

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        from taskloom.store.scratch import scratch

        with scratch() as folder:
            (folder / "object").write_bytes(data)
            self._objects.put(name, folder / "object")

    def names(self, name: str) -> list[str]:
        """List the first parts of the names below a folder."""
        below = Objects(self.place(name)).sizes()
        return sorted({each.partition("/")[0] for each in below if each})

    def size(self, name: str) -> int | None:
        """Return the bytes of an object."""
        return Objects(self.place(name)).sizes().get("")

    def get(self, name: str, local: Path) -> None:
        """Copy an object."""
        self._objects.get(name, local)

    def put(self, name: str, local: Path, last: str, *, replace: bool = False) -> None:
        """Send every file, that which makes it whole last."""
        there = Objects(self.place(name))
        old = there.sizes()
        if last in old and not replace:
            raise OutputError(f"{there.label} exists", hint="Allow replacing it")
        files = {p.relative_to(local).as_posix(): p for p in local.rglob("*") if p.is_file()}
        there.remove({last} & set(old))
        there.remove(set(old) - set(files) - {last})
        for each in sorted(files, key=lambda each: (each == last, each)):
            there.put(each, files[each])

    def held(self) -> Lease:
        """Hold a lock object, renewed while it is held."""
        return Lease(Objects(f"{self._objects.url}/server"), f"{self.label} ({LOCK})")
