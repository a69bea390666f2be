"""Spreading work over processes of this machine, which start as copies of this one.

A forked process has everything the work needs, chains with their functions and open files included, so
that nothing is sent to it. What it finds, and every sign of progress, comes back through a pipe. A
process that loses its parent ends at once, also in the middle of its work.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from taskloom.errors import OutputError, TaskloomError

T = TypeVar("T")
#: held while this process is copied: what a thread does while it holds it is never copied half done
FORKING = threading.Lock()
#: does the part of the work with this number, and calls the function after every step
Work = Callable[[int, Callable[[], None]], T]


def spread(count: int, work: Work[T], tick: Callable[[], None]) -> list[T]:
    """Do ``count`` parts of some work, each in a process of its own; return the results in order.

    Raises
    ------
    TaskloomError
        The first error of any process, which ends the others.
    OutputError
        A process ended before it was done, as it does when the system is out of memory.
    """
    children: list[tuple[int, Connection]] = []
    found: dict[int, T] = {}
    try:
        for number in range(count):
            ours, theirs = Pipe()
            with FORKING:
                pid = os.fork()
            if pid == 0:
                for connection in (ours, *(each for _, each in children)):
                    connection.close()
                _child(theirs, number, work)
            theirs.close()
            children.append((pid, ours))
        numbers = {id(connection): number for number, (_, connection) in enumerate(children)}
        while len(found) < count:
            for ready in wait([c for n, (_, c) in enumerate(children) if n not in found]):
                number = numbers[id(ready)]
                kind, value = _receive(children[number])
                if kind == "tick":
                    tick()
                elif kind == "done":
                    found[number] = value
                else:
                    raise value
    finally:
        for number, (pid, connection) in enumerate(children):
            connection.close()
            if number not in found:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return [found[number] for number in range(count)]


def _receive(child: tuple[int, Connection]) -> tuple[str, Any]:
    pid, connection = child
    try:
        kind, value = connection.recv()
    except EOFError:
        raise OutputError(
            f"worker process {pid} ended before its work was done",
            hint="If the system ran out of memory, take fewer workers or smaller slices",
        ) from None
    return kind, _error(*value) if kind == "error" else value


def _error(kind: type[BaseException], message: str) -> BaseException:
    """Return an error as it was raised in the other process."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    if isinstance(error, TaskloomError):
        error.hint = ""
    return error


def _child(connection: Connection, number: int, work: Work[Any]) -> None:
    """Work, say what came of it, and end without returning."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
        try:
            result = work(number, lambda: connection.send(("tick", None)))
            connection.send(("done", result))
            status = 0
        except BaseException as error:
            connection.send(("error", (type(error), str(error))))
    except (OSError, pickle.PicklingError):
        pass  # nobody listens any more; the parent tells of what cannot be sent
    finally:
        os._exit(status)


def _end_with_parent(connection: Connection) -> None:
    """Wait for the other end to close, which nothing but the parent's end does."""
    with contextlib.suppress(OSError, EOFError):
        connection.recv_bytes()
    os._exit(1)
