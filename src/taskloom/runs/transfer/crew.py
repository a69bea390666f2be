"""Who measures the cells: this process, several of this machine, or the machines of a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from taskloom.merging.cluster import RETRIES, RayCrew
from taskloom.merging.crew import CrewLost
from taskloom.store.cache import cache_root

T = TypeVar("T")


class Hands(Protocol):
    """Does jobs that do not depend on one another."""

    def each(
        self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, T]]:
        """Call the function with each tuple of arguments; yield (number, result) as they come.

        Raises
        ------
        CrewLost
            Whoever did the work is gone.
        """
        ...


class Alone:
    """The process that was started, one job after the other."""

    def each(
        self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, T]]:
        """As `Hands.each`, in the order of the jobs.

        >>> list(Alone().each(max, [(1, 2), (4, 3)]))
        [(0, 2), (1, 4)]
        """
        for number, arguments in enumerate(jobs):
            yield number, function(*arguments)


class Processes:
    """Several processes of this machine, each with its share of the processors.

    Parameters
    ----------
    workers
        How many, at least 2.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def each(
        self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, T]]:
        """As `Hands.each`; processes are started anew, and end with the last job."""
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        executor = ProcessPoolExecutor(
            min(self._workers, max(1, len(jobs))), get_context("spawn"), _settle, (threads,)
        )
        try:
            waiting = {executor.submit(function, *each): n for n, each in enumerate(jobs)}
            while waiting:
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(done)
                    yield number, done.result()
        except BrokenProcessPool:
            raise CrewLost(
                f"one of {self._workers} processes was ended from outside, perhaps for want of memory",
                hint="The same command goes on from the rows that are there; give fewer --workers",
            ) from None
        finally:
            executor.shutdown(cancel_futures=True)


def _settle(threads: int) -> None:
    """Begin a worker: its share of threads, and an end at once when the user interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch

    torch.set_num_threads(threads)


class Cluster(RayCrew):
    """The processors of a Ray cluster, one job each; use it as a context manager.

    All machines must see the cache folder (TASKLOOM_CACHE) under one path: it is where source experts
    are kept. Parameters and errors are those of `RayCrew`.
    """

    def each(
        self, function: Callable[..., T], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, T]]:
        """As `Hands.each`; a job whose machine dies is tried again elsewhere by Ray."""
        remote = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_in_one_thread)
        cache = str(cache_root())
        waiting = {remote.remote(cache, function, each): number for number, each in enumerate(jobs)}
        try:
            while waiting:
                (ready,), _ = self._ray.wait(list(waiting), num_returns=1)
                found = self._result(ready)
                yield waiting.pop(ready), found
        finally:
            self._stop(list(waiting))


def _in_one_thread(cache: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Do a job in a worker of the cluster, with the cache folder of whoever asked."""
    import torch

    os.environ["TASKLOOM_CACHE"] = cache
    torch.set_num_threads(1)
    return function(*arguments)
