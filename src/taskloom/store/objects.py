"""Objects below one address of a store, each written whole, through fsspec.

An object store has no rename, no append and no folders: an object is there with all its bytes or it is
not. Nothing else is asked of a store here, so that any protocol that fsspec knows will do.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from taskloom.errors import CheckpointError, OutputError, SourceUnreachable, TaskloomError
from taskloom.store.remote import connect, first_line, without_password

T = TypeVar("T")
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class StoreLost(OutputError):
    """A store failed in the middle of the work; what it has is kept, and the same command continues."""


class Objects:
    """What lies below ``protocol://bucket/folder``. It can be pickled, and shared by threads.

    Every method raises `StoreLost` when the store fails or refuses, and `OutputError` for a protocol
    that is unknown or whose package is not installed.

    Parameters
    ----------
    url
        The address. Credentials and options come from where the protocol's package and fsspec look
        for them, on every machine for itself.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.label = without_password(self.url)

    @property
    def parts(self) -> list[str]:
        """The parts of the path within the store, the bucket first."""
        return self._ask("", lambda _, path: [part for part in path.split("/") if part])

    def put(self, name: str, local: Path) -> None:
        """Write a file as an object, and make sure that it has arrived."""
        size = local.stat().st_size

        def write(filesystem: Any, path: str) -> int | None:
            filesystem.put_file(str(local), path)
            filesystem.invalidate_cache()
            found: int | None = filesystem.info(path).get("size")
            return found

        found = self._ask(name, write)
        if found != size:
            raise StoreLost(
                f"{self._label(name)}: {size} bytes were sent, and the store has {found}",
                hint="Try again; the same command continues with what is missing",
            )

    def put_json(self, name: str, table: Any) -> None:
        """Write data as a JSON object."""
        text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with _file(text.encode()) as local:
            self.put(name, local)

    def create(self, name: str, table: Any) -> bool:
        """Write data as JSON unless there is such an object; tell whether it was written.

        Stores that can do so refuse the second of two writers; with others the caller reads it again
        to see whose it is.
        """
        if self.read(name) is not None:
            return False

        def write(filesystem: Any, path: str) -> bool:
            try:
                filesystem.put_file(str(local), path, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError):  # an older package
                filesystem.put_file(str(local), path)
            return True

        with _file(json.dumps(table).encode()) as local:
            return self._ask(name, write)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object, None if there is none."""

        def look(filesystem: Any, path: str) -> bytes | None:
            filesystem.invalidate_cache()
            try:
                return bytes(filesystem.cat_file(path))
            except _ABSENT:
                return None

        return self._ask(name, look)

    def get(self, name: str, local: Path) -> None:
        """Copy an object into a file."""
        self._ask(name, lambda filesystem, path: filesystem.get_file(path, str(local)))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every object below the address; an object at the address itself is ''."""

        def look(filesystem: Any, path: str) -> dict[str, int]:
            filesystem.invalidate_cache()
            try:
                found = filesystem.find(path, detail=True)
            except _ABSENT:
                return {}
            whole = path.rstrip("/")
            names = {str(filesystem._strip_protocol(each)): entry for each, entry in found.items()}
            return {
                name[len(whole) + 1 :]: int(entry["size"])
                for name, entry in names.items()
                if name == whole or name.startswith(f"{whole}/")
            }

        return self._ask("", look)

    def copy(self, name: str, to: Objects) -> None:
        """Copy an object within the store, which does it itself if it can."""
        target = connect(to._url(name))[1]

        def copy(filesystem: Any, path: str) -> None:
            try:
                filesystem.cp_file(path, target)
            except NotImplementedError:
                with tempfile.TemporaryDirectory() as folder:
                    local = Path(folder) / "object"
                    filesystem.get_file(path, str(local))
                    filesystem.put_file(str(local), target)

        self._ask(name, copy)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects that are there."""
        listed = list(names)
        if not listed:
            return

        def remove(filesystem: Any, path: str) -> None:
            filesystem.rm([f"{path.rstrip('/')}/{name}" for name in listed])
            filesystem.invalidate_cache()

        self._ask("", remove)

    def prune(self, *folders: str) -> None:
        """Remove empty folders where a store has folders, the address itself last."""
        for name in (*folders, ""):
            with contextlib.suppress(Exception):  # most stores have none
                filesystem, path = connect(self._url(name))
                filesystem.rmdir(path)

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _label(self, name: str) -> str:
        return f"{self.label}/{name}" if name else self.label

    def _ask(self, name: str, action: Callable[[Any, str], T]) -> T:
        """Ask the store; whatever its package raises becomes one sentence."""
        try:
            filesystem, path = connect(self._url(name))
        except (CheckpointError, SourceUnreachable) as error:
            raise OutputError(str(error)) from error
        try:
            return action(filesystem, path)
        except TaskloomError:
            raise
        except PermissionError as error:
            raise StoreLost(
                f"{self._label(name)}: the store refuses access: {first_line(error)}",
                hint="Log in as its package's manual says, or ask for the right to write and to list",
            ) from error
        except Exception as error:  # packages of stores have exceptions of their own
            raise StoreLost(
                f"{self._label(name)}: the store cannot be written to: {first_line(error)}",
                hint="Check the address, the credentials and the network; the same command continues "
                "with what is missing",
            ) from error


@contextlib.contextmanager
def _file(data: bytes) -> Any:
    """Yield a file with these bytes: every protocol can take one."""
    with tempfile.TemporaryDirectory(prefix="taskloom-") as folder:
        local = Path(folder) / "object"
        local.write_bytes(data)
        yield local
