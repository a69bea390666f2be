"""What a merge records of its inputs: the SHA-256 of every file, made while the merge reads it.

A file is hashed from its first byte to its last, so that the digest is what any other program gives; the
engine reads tensors out of order and cannot hash on the way. Threads of their own do it beside the
merge, mostly from pages that the merge has just read, and the cache keeps what they found by path, size
and times: later merges of the same files hash nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError
from taskloom.merging.plan import MergePlan, files_of
from taskloom.merging.processes import FORKING
from taskloom.store.cache import file_digest, file_mark
from taskloom.store.digest import keep_digest, known_digest

#: what the cache calls digests of files
KIND = "file"
_CHUNK = 1 << 20


class InputDigests:
    """Digests of the inputs of a plan; a context manager, within which missing ones are made.

    Parameters
    ----------
    plan
        Whose inputs.
    wanted
        False: nothing is hashed, and only the files' sizes and times are told.
    threads
        That hash at a time.
    forks
        This process is copied meanwhile: one thread hashes, and none of its pieces is begun then.
    """

    def __init__(self, plan: MergePlan, *, wanted: bool, threads: int = 1, forks: bool = False) -> None:
        self._checkpoints = plan.program.checkpoints
        self._wanted, self._threads = wanted, 1 if forks else threads
        self._piece: AbstractContextManager[Any] = FORKING if forks else nullcontext()
        files = [file for each in self._checkpoints for file, _ in files_of(each)]
        self._marks = {file: file_mark(file) for file in files} if wanted else {}
        self._found: dict[Path, str | Future[str]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> InputDigests:
        """Begin to hash what the cache does not know."""
        missing = []
        for file in self._marks:
            with _reading(file):
                known = known_digest(KIND, [file])
            if known is None:
                missing.append(file)
            else:
                self._found[file] = known
        if missing:
            pool = ThreadPoolExecutor(min(self._threads, len(missing)), "taskloom-digests")
            self._pool = pool
            self._found |= {file: pool.submit(self._hash, file) for file in missing}
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, whatever is left."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def describe(self) -> list[dict[str, Any]]:
        """Wait for the digests, and return what is known of every checkpoint.

        Returns
        -------
        list of dict
            ``label`` and ``files``: ``path``, ``bytes``, ``mtime_ns`` and, if wanted, ``sha256``.
            ``digest`` of the tensors stands for the files of what is none, such as weights in memory.

        Raises
        ------
        CheckpointError
            A file cannot be read any more, or changed meanwhile.
        """
        found = []
        for checkpoint in self._checkpoints:
            files = [self._file(file, size) for file, size in files_of(checkpoint)]
            entry: dict[str, Any] = {"label": checkpoint.label, "files": files}
            objects = getattr(checkpoint, "objects", None)
            if objects is not None:
                entry["objects"] = objects
            elif self._wanted and not files:
                entry["digest"] = checkpoint.digest()
            found.append(entry)
        return found

    def _file(self, file: Path, size: int) -> dict[str, Any]:
        told = {"path": str(file.resolve()), "bytes": size, "mtime_ns": file.stat().st_mtime_ns}
        if file not in self._found:
            return told
        digest = self._found[file]
        if isinstance(digest, Future):
            digest = digest.result()
        if file_mark(file) != self._marks[file]:
            raise CheckpointError(
                f"{file}: the file changed while it was in use",
                hint="Merge again once nothing writes to it",
            )
        return told | {"sha256": digest}

    def _hash(self, file: Path) -> str:
        """Hash a file and keep what was found; leave off when the merge is over."""
        with _reading(file):
            with self._piece:
                state, stream = hashlib.sha256(), file.open("rb", buffering=0)
            with stream:
                while True:
                    if self._stopped.is_set():
                        raise CancelledError
                    with self._piece:
                        piece = stream.read(_CHUNK)
                        if not piece:
                            break
                        state.update(piece)
            with self._piece:
                digest = state.hexdigest()
                keep_digest(KIND, [file], digest, [self._marks[file]])
        return digest


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read: {error.strerror or error}",
            hint="Check that the file is still there",
        ) from error


def changed_file(entry: Mapping[str, Any], *, always: bool) -> str | None:
    """Return what is wrong with a recorded file of an input: None if it is as it was.

    Parameters
    ----------
    entry
        From `InputDigests.describe`.
    always
        Hash it, or take it from the cache, even if size and time are as recorded.
    """
    path = Path(entry["path"])
    if not path.is_file():
        return "is gone"
    mark = file_mark(path)
    same = mark[:2] == [entry["bytes"], entry["mtime_ns"]]
    if mark[0] != entry["bytes"]:
        return f"has {mark[0]} bytes instead of {entry['bytes']}"
    if "sha256" not in entry:
        return None if same else "has another time, and its bytes were not hashed"
    if same and not always:
        return None
    digest = known_digest(KIND, [path])
    if digest is None:
        digest = file_digest(path)
        keep_digest(KIND, [path], digest, [mark])
    return None if digest == entry["sha256"] else "has other bytes"
