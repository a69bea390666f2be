"""Who writes to a place in an object store: a lock object with owner and time, renewed while it is held.

A store has no lock that ends with its process. The owner writes the time into the lock every half
minute; a lock whose process is known to have ended (it ran on this machine), or that was not renewed for
five minutes by the clocks of both machines, is taken over. A run that was believed dead finds that out
before it writes the next shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError, TaskloomError
from taskloom.store.objects import Objects, StoreLost

LOCK = "lock.json"
#: seconds between signs of life, and without one until a lock is taken over
BEAT, PATIENCE = 30.0, 300.0
#: runs of this process that hold a lock
_held: set[str] = set()


class Lease:
    """A lock object among others; a context manager.

    Parameters
    ----------
    objects
        Where ``lock.json`` is put.
    what
        What is written, for messages.
    guard
        Held while the lock is renewed: by whoever copies this process meanwhile.

    Raises
    ------
    OutputError
        On entering: another run holds it.
    """

    def __init__(
        self, objects: Objects, what: str, guard: AbstractContextManager[Any] | None = None
    ) -> None:
        self._objects, self._what = objects, what
        self._guard = guard or contextlib.nullcontext()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="taskloom-lease", daemon=True)
        self.run = secrets.token_hex(8)
        self._since = _now()

    def __enter__(self) -> Lease:
        there = _read(self._objects)
        if there is not None:
            if not _over(there):
                raise self._refusal(there)
            self._objects.remove([LOCK])
        made = self._objects.create(LOCK, self._table())
        there = _read(self._objects) or {}
        if not made or there.get("run") != self.run:
            raise self._refusal(there)
        _held.add(self.run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        _held.discard(self.run)
        with contextlib.suppress(TaskloomError):  # then it is known to be over, or is in time
            if (_read(self._objects) or {}).get("run") == self.run:
                self._objects.remove([LOCK])

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(TaskloomError), self._guard:  # a store that fails fails the work
                if (_read(self._objects) or {}).get("run") == self.run:
                    self._objects.put_json(LOCK, self._table())

    def _table(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "machine": _machine(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "since": self._since,
            "renewed": _now(),
        }

    def _refusal(self, there: Mapping[str, Any]) -> OutputError:
        return OutputError(
            f"{self._what} is being written by another run ({owner(there)})",
            hint=f"Wait for it; if it is dead, give the command again {PATIENCE / 60:.0f} minutes after "
            f"its last sign of life, or remove {self._objects.label}/{LOCK}",
        )


def still_ours(objects: Objects, run: str) -> None:
    """Refuse to go on with a run whose lock is gone.

    Raises
    ------
    StoreLost
        Another run took it over, or somebody removed it.
    """
    there = _read(objects)
    for _ in range(3):  # some stores show an object while it is being written
        if there != {}:
            break
        time.sleep(1)
        there = _read(objects)
    if (there or {}).get("run") != run:
        who = f"taken over by another run ({owner(there)})" if there else "removed"
        raise StoreLost(
            f"{objects.label}/{LOCK}: the lock of this run was {who}",
            hint="Leave the output to the other run, or give the same command again after it",
        )


def refuse_held(objects: Objects, what: str) -> None:
    """Refuse a place that another run holds, without taking it.

    Raises
    ------
    OutputError
        Names the owner.
    """
    there = _read(objects)
    if there is not None and not _over(there):
        raise Lease(objects, what)._refusal(there)


def owner(table: Mapping[str, Any]) -> str:
    """Say who holds a lock.

    >>> owner({"pid": 7, "machine": ["abacus"], "since": "2026-01-02T03:04:05+00:00"})
    'process 7 on abacus since 2026-01-02T03:04:05+00:00, last sign of life unknown'
    """
    machine = (table.get("machine") or ["an unknown machine"])[0]
    since, renewed = (table.get(key, "unknown") for key in ("since", "renewed"))
    return (
        f"process {table.get('pid', 'unknown')} on {machine} since {since}, last sign of life {renewed}"
    )


def _read(objects: Objects) -> dict[str, Any] | None:
    data = objects.read(LOCK)
    if data is None:
        return None
    try:
        table = json.loads(data)
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}


def _over(table: Mapping[str, Any]) -> bool:
    """Tell whether the owner of a lock has ended, or has given no sign of life for long."""
    if table.get("machine") == _machine():
        mine = table.get("pid") == os.getpid()
        if _process(table.get("pid")) != table.get("process") or (mine and table["run"] not in _held):
            return True
    try:
        renewed = datetime.fromisoformat(str(table.get("renewed")))
        return time.time() - renewed.timestamp() > PATIENCE
    except ValueError:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> list[str]:
    """Return what tells this machine, since its start, from others: containers are told apart too."""
    found = [platform.node()]
    with contextlib.suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        found.append(os.readlink("/proc/self/ns/pid"))
    return found


def _process(pid: object) -> str | None:
    """Return what tells a process from a later one of its number: when it started; None if it ended."""
    if not isinstance(pid, int):
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "runs"
