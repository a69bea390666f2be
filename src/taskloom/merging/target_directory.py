"""An output that is a directory: made in ``OUT.partial`` beside it, and renamed when it is whole."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError
from taskloom.merging.plan import files_of
from taskloom.merging.program import Program
from taskloom.merging.target import JOURNAL, MODEL, Sizes
from taskloom.store.atomic import (
    as_output_error,
    final_path,
    put_in_place,
    refuse_existing,
    sync_tree,
    write_json,
)

#: in the working folder: shards that are being written
PARTS = "parts"
_LOCK = "lock"


@dataclass(frozen=True)
class SharedFolder:
    """A working folder that all machines see: shards are written beside their place, and renamed."""

    work: Path
    lasting: bool = True

    def join(self) -> None:
        """Refuse a machine that does not see the folder."""
        if not (self.work / MODEL).is_dir():
            raise OutputError(
                f"machine {platform.node()!r} does not see {self.work}, the folder that the output is "
                "made in",
                hint="Choose an output in a directory that all machines share under one path, or in an "
                "object store",
            )

    @contextlib.contextmanager
    def shard(self, name: str) -> Iterator[Path]:
        """Yield a file beside the place of the shard, and rename it."""
        beside = self.work / PARTS / f"{name}.{secrets.token_hex(8)}"
        with as_output_error(self.work):
            try:
                yield beside
                os.replace(beside, self.work / MODEL / name)
            finally:
                beside.unlink(missing_ok=True)


class DirectoryTarget:
    """A directory of this machine, or one that is shared with others.

    Parameters
    ----------
    output
        The directory to make.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.path = final_path(output)
        self._work = partial_of(self.path)
        self.folder = self._work / MODEL
        self.kept = str(self._work)
        self.landing = SharedFolder(self._work)

    def check(self, program: Program, *, overwrite: bool) -> None:
        """Refuse what exists and may not be replaced, and a directory that an input is in."""
        refuse_existing(self.path, overwrite=overwrite)
        for checkpoint in program.checkpoints:
            for file, _ in files_of(checkpoint):
                if Path(file).resolve().is_relative_to(self.path):
                    raise OutputError(
                        f"{self.path} holds the input {file} and would be deleted by overwriting it",
                        hint="Name another output",
                    )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the working folder by a lock of the system, which ends with its process."""
        with as_output_error(self.path), _locked(self._work, self.path):
            yield

    def left(self) -> list[str]:
        """Return the names in the working folder."""
        return sorted(each.name for each in self._work.iterdir() if each.name != _LOCK)

    def read(self) -> str | None:
        """Return the text of the journal."""
        path = self._work / JOURNAL
        return path.read_text(encoding="utf-8") if path.exists() else None

    def write(self, journal: Mapping[str, Any]) -> None:
        """Replace the journal, on disk."""
        write_json(self._work / JOURNAL, journal)

    def keep(self, shards: Sizes) -> set[str]:
        """Remove the files that are no whole shards: they are all made again."""
        for name in (MODEL, PARTS):
            (self._work / name).mkdir(exist_ok=True)
            _remove(each for each in (self._work / name).iterdir() if each.name not in shards)
        found = ((name, self.folder / name) for name in shards)
        return {n for n, file in found if file.is_file() and file.stat().st_size == shards[n]}

    def place(self, shards: Sizes, *, overwrite: bool, note: Callable[[str], None]) -> None:
        """Rename the folder of the model, once it is on disk."""
        sync_tree(self.folder)
        put_in_place(self.folder, self.path, overwrite=overwrite)

    def clear(self) -> None:
        """Remove everything but the lock."""
        _remove(each for each in self._work.iterdir() if each.name != _LOCK)

    def drop(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self._work, ignore_errors=True)

    def room(self, wanted: int, *, overwrite: bool) -> dict[str, Any]:
        """Return ``bytes_free`` of the disk."""
        refuse_existing(self.path, overwrite=overwrite)
        parent = next(each for each in self.path.parents if each.exists())
        if not os.access(parent, os.W_OK):
            raise OutputError(
                f"{self.path}: {parent} may not be written to",
                hint="Choose an output in a folder you may write to",
            )
        free = shutil.disk_usage(parent).free
        made = self._work.rglob("*") if self._work.exists() else ()
        held = sum(file.stat().st_blocks * 512 for file in made if file.is_file())
        if free + held < wanted:
            raise OutputError(
                f"{self.path}: the merged weights take {wanted:,} bytes, and its disk has {free:,} left",
                hint="Make room, or choose an output on another disk",
            )
        return {"bytes_free": free}


def partial_of(target: str | os.PathLike[str]) -> Path:
    """Return the folder in which a target is made."""
    final = final_path(target)
    return final.with_name(f"{final.name}.partial")


def _remove(entries: Iterator[Path]) -> None:
    for each in list(entries):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


@contextlib.contextmanager
def _locked(work: Path, final: Path) -> Iterator[None]:
    """Hold the working folder against a second run into the same output."""
    import fcntl

    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"{final}: the folder cannot be made: {error.strerror or error}",
            hint="Choose an output in a folder you may write to",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"{final} is being written by another run (it holds {work / _LOCK})",
                hint="Wait for it, or name another output",
            ) from error
        if not os.path.exists(work / _LOCK):
            raise OutputError(
                f"{final} was being written by another run until now",
                hint="Look at what it made, or name another output",
            )
        yield
    finally:
        os.close(descriptor)
