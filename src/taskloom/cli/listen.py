"""Shows how far long work is: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import click

from taskloom.progress import Progress, silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

#: work shorter than this shows nothing (seconds)
PATIENCE = 2.0
#: between two plain lines (seconds)
INTERVAL = 10.0


@contextmanager
def listening() -> Iterator[Progress]:
    """Yield the listener that fits the standard error and ``--quiet``."""
    context = click.get_current_context(silent=True)
    if context is not None and (context.find_object(dict) or {}).get("quiet"):
        yield silent
        return
    listener = OnTerminal() if sys.stderr.isatty() else InLog(sys.stderr)
    try:
        yield listener
    finally:
        listener.close()


class OnTerminal:
    """One bar per label, shown once the work has taken two seconds; a label may begin anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, label: str, done: float, total: float | None, /) -> None:
        """Move the bar of ``label``."""
        with self._lock:
            now = self._clock()
            self._begun = now if self._begun is None else self._begun
            if self._bars is None:
                if now - self._begun < PATIENCE:
                    return
                self._bars = _bars()
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=total)
            elif done < self._done[label]:
                self._bars.reset(self._tasks[label])
            self._done[label] = done
            self._bars.update(self._tasks[label], completed=done, total=total)

    def close(self) -> None:
        """Leave the finished bars on the screen."""
        if self._bars is not None:
            self._bars.stop()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        expand=True,
    )
    bars.start()
    return bars


class InLog:
    """A plain line when ten seconds have passed since the last, and when long work is done.

    The seconds are those since the label began; one whose amount goes back begins anew.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._last: float | None = None
        self._lock = threading.Lock()

    def __call__(self, label: str, done: float, total: float | None, /) -> None:
        """Write a line if it is time for one."""
        with self._lock:
            now = self._clock()
            self._last = now if self._last is None else self._last
            if done < self._done.get(label, 0):  # the same work on something else
                del self._begun[label]
            self._done[label] = done
            begun = self._begun.setdefault(label, now)
            finished = total is not None and done >= total and now - begun >= PATIENCE
            if not finished and now - self._last < INTERVAL:
                return
            self._last = now
            of = "" if total is None else f"/{total:g}"
            self._stream.write(f"{label}: {done:g}{of} ({now - begun:.0f} s)\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is kept open."""
