"""Rows measured by several processes, each with its share of the processors; one process writes.

A process that fails ends the measurement: the others finish what they are at, their rows are written,
and then the error is raised. What is written is not measured again by the next call.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import taskloom
from taskloom.errors import OutputError, PlanError
from taskloom.runs.claims.jobs import Job, understood
from taskloom.runs.claims.results import Row

#: what libraries read the number of their threads from
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
COMMAND = (sys.executable, "-m", "taskloom.runs.claims.worker")


@dataclass
class _Worker:
    """A process, and what it is at."""

    number: int
    process: subprocess.Popen[str]
    errors: IO[bytes]
    job: Job | None = None

    def give(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.job = job
        with suppress(BrokenPipeError):  # it has ended, which its next answer tells
            self.process.stdin.write(job.line())
            self.process.stdin.flush()

    def row(self) -> Row:
        """Read its answer.

        Raises
        ------
        OutputError
            It ended without one.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            return understood(line)
        status = self.process.wait()
        raise OutputError(
            f"worker {self.number} {_ended(status)} while it measured {self.job}{self._last()}",
            hint="The same command goes on with the rows that are missing; if memory ran out, give it "
            "fewer workers",
        )

    def _last(self) -> str:
        """Return the last line that it wrote to its standard error, for a message."""
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f" (it said: {said[-1].rstrip('.')})" if said else ""

    def end(self) -> None:
        """Let it go: at once if it is at something."""
        if self.job is not None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.process.wait()
        self.errors.close()


def measure_together(
    jobs: Iterator[Job],
    workers: int,
    keep: Callable[[Row], None],
    *,
    threads: int,
) -> None:
    """Have jobs done by processes, and keep every row as it comes.

    Parameters
    ----------
    jobs
        In the order in which they are begun; asked for when a process is free.
    workers
        Processes.
    keep
        Called in this process, with one row at a time.
    threads
        That every process may use.

    Raises
    ------
    TaskloomError
        The first error of any process.
    OutputError
        A process ended before it was done, as it does when the system is out of memory.
    PlanError
        Fewer than one process.
    """
    if workers < 1:
        raise PlanError(f"{workers} workers cannot measure anything", hint="Give one or more")
    crew: list[_Worker] = []
    failure: Exception | None = None
    with selectors.DefaultSelector() as waiting:
        try:
            for job in _first(jobs, workers):
                worker = _start(len(crew), threads)
                crew.append(worker)
                assert worker.process.stdout is not None
                waiting.register(worker.process.stdout, selectors.EVENT_READ, worker)
                worker.give(job)
            while any(worker.job is not None for worker in crew):
                for key, _ in waiting.select():
                    worker = key.data
                    following: Job | None = None
                    try:
                        keep(worker.row())
                        worker.job = None
                        following = next(jobs, None) if failure is None else None
                    except Exception as error:
                        failure, worker.job = failure or error, None
                    if following is None:
                        waiting.unregister(key.fileobj)
                    else:
                        worker.give(following)
        finally:
            for worker in crew:
                worker.end()
    if failure is not None:
        raise failure


def _first(jobs: Iterator[Job], count: int) -> Iterator[Job]:
    for _ in range(count):
        job = next(jobs, None)
        if job is None:
            return
        yield job


def _start(number: int, threads: int) -> _Worker:
    errors = tempfile.TemporaryFile(prefix="taskloom-worker-")  # noqa: SIM115 - it outlives this call
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    here = str(Path(taskloom.__file__).resolve().parents[1])  # the same code as here
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    return _Worker(number + 1, process, errors)


def _ended(status: int) -> str:
    """Say how a process ended.

    >>> _ended(-9), _ended(1)
    ('was ended by SIGKILL', 'ended with status 1')
    """
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
