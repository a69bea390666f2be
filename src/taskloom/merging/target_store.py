"""An output in an object store: shards go up one by one beside it, and are copied when all are there.

While a model is made its shards and the journal lie below ``URL.partial/``, and nothing lies below
``URL/``. When every shard is in the store, what is below ``URL/`` is removed, that first without which
nothing takes it for a model; the store copies the shards to their place, the small files follow, and
last of all ``taskloom.json``, ``config.json`` and the index (or the only weights). So what is below
``URL/`` is the old model, the new one, or nothing that loads: never a mixture. The journal says which it
is, and the same command goes on from there.

A worker writes a shard to its own scratch folder and sends it: it holds one shard at a time.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError
from taskloom.merging.processes import FORKING
from taskloom.merging.program import Program
from taskloom.merging.target import JOURNAL, MODEL, PLACED, PLACING, Sizes, phase_of
from taskloom.store.atomic import FULL
from taskloom.store.lease import LOCK, Lease, refuse_held, still_ours
from taskloom.store.objects import Objects, StoreLost
from taskloom.store.remote import RemoteCheckpoint
from taskloom.store.safetensors_dir import INDEX, WEIGHTS
from taskloom.store.scratch import scratch

#: what makes a folder look like a model: removed first, in this order, and written last
MARKS = (INDEX, WEIGHTS, "config.json", "taskloom.json")


@dataclass(frozen=True)
class Store:
    """Where shards go: below ``URL.partial/model``, as long as the run holds its lock.

    Attributes
    ----------
    work
        ``URL.partial``.
    run
        Whose lock.
    """

    work: str
    run: str
    lasting: bool = False

    def join(self) -> None:
        """Refuse a machine that cannot reach the store, or comes when the run is over."""
        still_ours(Objects(self.work), self.run)

    @contextlib.contextmanager
    def shard(self, name: str) -> Iterator[Path]:
        """Yield a file in a scratch folder, and send it."""
        objects = Objects(self.work)
        with scratch() as folder, _local_errors(folder):
            yield folder / name
            still_ours(objects, self.run)
            objects.put(f"{MODEL}/{name}", folder / name)


class StoreTarget:
    """A folder of an object store.

    Parameters
    ----------
    url
        ``protocol://bucket/folder``.

    Raises
    ------
    OutputError
        An address that names no folder of a bucket.
    """

    def __init__(self, url: str) -> None:
        self._final = Objects(url)
        self._work = Objects(f"{self._final.url}.partial")
        self.path: str = self._final.label
        self.kept = self._work.label
        self._lease: Lease | None = None
        self._folder: Path | None = None
        if any(mark in url for mark in "?#*[]") or url.endswith(".safetensors"):
            raise OutputError(
                f"{self.path}: expected the address of a folder, without * ? [ ] #, found another",
                hint="Write s3://bucket/folder",
            )

    @property
    def folder(self) -> Path:
        """A scratch folder, while the target is held."""
        if self._folder is None:
            raise RuntimeError("the target is not held")
        return self._folder

    @property
    def landing(self) -> Store:
        """The store, for the run that holds it."""
        if self._lease is None:
            raise RuntimeError("the target is not held")
        return Store(self._work.url, self._lease.run)

    def check(self, program: Program, *, overwrite: bool) -> None:
        """Refuse what exists and may not be replaced, and a folder that an input is in."""
        self._refuse_existing(overwrite=overwrite)
        own = self._final.parts
        for checkpoint in program.checkpoints:
            below = getattr(checkpoint, "base", checkpoint)
            for each in (checkpoint, below):
                if isinstance(each, RemoteCheckpoint):
                    self._refuse_input(own, each)

    def _refuse_input(self, own: list[str], checkpoint: RemoteCheckpoint) -> None:
        for entry in checkpoint.objects:
            there = Objects(str(entry["url"]))
            if there.parts[: len(own)] == own and _protocol(there) == _protocol(self._final):
                raise OutputError(
                    f"{self.path} holds the input {there.label} and would be deleted by overwriting it",
                    hint="Name another output",
                )

    def _refuse_existing(self, *, overwrite: bool) -> None:
        if len(self._final.parts) < 2:
            raise OutputError(
                f"{self.path}: expected a folder in a bucket, found a bucket",
                hint=f"Write {self.path}/model",
            )
        there = self._final.sizes()
        if "" in there:
            raise OutputError(
                f"{self.path} is an object, where a folder is to be written", hint="Name another output"
            )
        if there and not overwrite and phase_of(self.read()) != PLACING:
            raise OutputError(
                f"{self.path} exists and is not empty",
                hint="Name another output, or allow overwriting it (--force)",
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it by a lock object, and have a scratch folder for the small files."""
        with ExitStack() as stack:
            self._folder = stack.enter_context(scratch())
            stack.callback(self._prune)
            self._lease = stack.enter_context(Lease(self._work, self.path, FORKING))
            stack.enter_context(_local_errors(self._folder))
            try:
                yield
            finally:
                self._folder = None

    def _prune(self) -> None:
        """Remove empty folders, of stores that have folders."""
        with contextlib.suppress(OutputError):
            if not self._work.sizes():
                self._work.prune(MODEL)

    def left(self) -> list[str]:
        """Return the names of the objects below ``URL.partial``."""
        return sorted(name for name in self._work.sizes() if name != LOCK)

    def read(self) -> str | None:
        """Return the text of the journal."""
        data = self._work.read(JOURNAL)
        return None if data is None else data.decode("utf-8", errors="replace")

    def write(self, journal: Mapping[str, Any]) -> None:
        """Replace the journal, if this run is still the one that writes."""
        still_ours(self._work, self.landing.run)
        self._work.put_json(JOURNAL, journal)

    def keep(self, shards: Sizes) -> set[str]:
        """Remove objects that are no whole shards."""
        found = self._work.sizes()
        whole = {name for name, size in shards.items() if found.get(f"{MODEL}/{name}") == size}
        kept = {JOURNAL, LOCK, *(f"{MODEL}/{name}" for name in whole)}
        self._work.remove(set(found) - kept)
        return whole

    def place(self, shards: Sizes, *, overwrite: bool, note: Callable[[str], None]) -> None:
        """Remove the old model, have the store copy the shards, and send the rest, what counts last."""
        files = {p.relative_to(self.folder).as_posix(): p for p in self.folder.rglob("*") if p.is_file()}
        self._refuse_existing(overwrite=overwrite)
        note(PLACING)
        there = self._final.sizes()
        for mark in MARKS:
            self._final.remove({mark} & set(there))
        self._final.remove(set(there) - set(MARKS))
        staged = Objects(f"{self._work.url}/{MODEL}")
        for name in sorted({*shards, *files}, key=_last):
            still_ours(self._work, self.landing.run)
            if name in files:
                self._final.put(name, files[name])
            else:
                staged.copy(name, self._final)
        self._look(dict(shards) | {name: path.stat().st_size for name, path in files.items()})
        note(PLACED)

    def _look(self, wanted: Sizes) -> None:
        """Make sure that what was written is there, and nothing else."""
        found = self._final.sizes()
        for name in sorted(set(found) | set(wanted)):
            if found.get(name) != wanted.get(name):
                raise StoreLost(
                    f"{self.path}/{name}: expected {wanted.get(name, 0)} bytes, "
                    f"found {found.get(name, 0)}",
                    hint="Somebody else writes there; give the same command again when nobody does",
                )

    def clear(self) -> None:
        """Remove everything but the lock."""
        self._work.remove(self.left())

    def drop(self) -> None:
        """Remove everything but the lock, which goes last, if the store lets it."""
        with contextlib.suppress(StoreLost):
            self.clear()

    def room(self, wanted: int, *, overwrite: bool) -> dict[str, Any]:
        """Return the address as ``output``, the ``scratch`` folder, and ``scratch_bytes_free`` there.

        Whether the store may be written to is not known before something is.
        """
        self._refuse_existing(overwrite=overwrite)
        refuse_held(self._work, self.path)
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        return {"output": self.path, "scratch": folder, "scratch_bytes_free": free}


def _last(name: str) -> tuple[int, str]:
    """Sort names in the order in which they are written: marks last, as they are removed first."""
    return (len(MARKS) - MARKS.index(name) if name in MARKS else 0, name)


def _protocol(objects: Objects) -> str:
    return objects.url.partition("://")[0].lower()


@contextlib.contextmanager
def _local_errors(folder: Path) -> Iterator[None]:
    """Tell of a scratch folder that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OutputError(
            f"{folder}: the disk with temporary files (or the allowed file size) is full: "
            f"{error.strerror}",
            hint="Let TMPDIR name a folder with room for a shard, or make smaller shards "
            "(--max-shard-size)",
        ) from error
