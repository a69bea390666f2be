"""Where a model is made: the seam between a build and what holds its output.

A build makes shards, keeps a journal of those that are whole, writes small files into a local folder,
and has all of it put in place. `Target` says what it asks for; `taskloom.merging.target_directory` is a
directory of this machine, `taskloom.merging.target_store` a folder of an object store. `Landing` is the
part of it that goes to other processes: where a shard is written, and what makes it count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from taskloom.merging.program import Program
from taskloom.store.remote import is_url, local_path

#: what says how far a build is, and the folder of the model, both in the place where it is made
JOURNAL, MODEL = "journal.json", "model"
#: names of the weights and what belongs to them, as a build plans them: file -> bytes
Sizes = Mapping[str, int]


class Landing(Protocol):
    """Where shards go. It can be pickled."""

    @property
    def lasting(self) -> bool:
        """Whether the file that is written has to be on disk before the shard counts as whole."""
        ...

    def join(self) -> None:
        """Refuse a machine from which it cannot be reached."""
        ...

    def shard(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local file to write; the shard is whole once the block has ended without an error.

        It may be made twice, by two machines at once: the bytes are the same.
        """
        ...


class Target(Protocol):
    """A place for one model, which appears there whole or not at all."""

    @property
    def path(self) -> Path | str:
        """The directory, or the address."""
        ...

    @property
    def kept(self) -> str:
        """Where unfinished work is, for messages."""
        ...

    @property
    def folder(self) -> Path:
        """A local folder for all files but shards, while the target is held."""
        ...

    @property
    def landing(self) -> Landing:
        """Where shards go, while the target is held."""
        ...

    def check(self, program: Program, *, overwrite: bool) -> None:
        """Refuse a target that exists, cannot be one, or holds an input; nothing is written.

        Raises
        ------
        OutputError
            With what is in the way.
        """
        ...

    def held(self) -> AbstractContextManager[None]:
        """Hold it against other runs, and tell errors of the system as `OutputError`."""
        ...

    def left(self) -> list[str]:
        """Return what an earlier run left where it is made."""
        ...

    def read(self) -> str | None:
        """Return the text of the journal, None if there is none."""
        ...

    def write(self, journal: Mapping[str, Any]) -> None:
        """Replace the journal."""
        ...

    def keep(self, shards: Sizes) -> set[str]:
        """Remove what was left but these shards; return those that are there with all their bytes."""
        ...

    def place(self, shards: Sizes, *, overwrite: bool, note: Callable[[str], None]) -> None:
        """Give shards and small files their place.

        Parameters
        ----------
        shards
            All of them.
        overwrite
            Replace what is there; it stays until all is ready to take its place.
        note
            Called with a word for the journal when the old one begins to go, and when the new one is
            there.
        """
        ...

    def clear(self) -> None:
        """Remove what was left or made, but for the lock."""
        ...

    def drop(self) -> None:
        """Remove what was made, when it is in place or of no use."""
        ...

    def room(self, wanted: int, *, overwrite: bool) -> dict[str, Any]:
        """Check without writing what can be checked, and tell of the room there is.

        Raises
        ------
        OutputError
            It exists, cannot be written, or has no room for so many bytes.
        """
        ...


#: words of the journal: the old output goes; the new one is there
PLACING, PLACED = "placing", "placed"


def phase_of(journal: str | None) -> str | None:
    """Return the last word that was noted in a journal.

    >>> phase_of('{"phase": "placing"}'), phase_of("{"), phase_of(None)
    ('placing', None, None)
    """
    try:
        table = json.loads(journal or "{}")
    except ValueError:
        return None
    return table.get("phase") if isinstance(table, dict) else None


def named(output: str | os.PathLike[str]) -> Path | str:
    """Return an output as it is told to users: a path, or the address of a store.

    >>> named("s3://bucket/out"), named("file:///models/out").as_posix()
    ('s3://bucket/out', '/models/out')
    """
    text = os.fspath(output)
    if not is_url(text):
        return Path(text)
    return local_path(text) or text.rstrip("/")


def target_of(output: str | os.PathLike[str]) -> Target:
    """Return the target that an output names.

    Raises
    ------
    OutputError
        An address that no store can have.
    """
    place = named(output)
    if isinstance(place, str):
        from taskloom.merging.target_store import StoreTarget

        return StoreTarget(place)
    from taskloom.merging.target_directory import DirectoryTarget

    return DirectoryTarget(place)
