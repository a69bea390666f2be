"""Batches without end: the same ones again, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

from taskloom.learn.probe import Batch, Examples


class Feed:
    """Goes through examples again and again.

    Parameters
    ----------
    examples
        Batches that are made when they are asked for.

    Examples
    --------
    >>> feed = Feed(Examples.of([([1.0], None), ([2.0], None)]))
    >>> [feed.next() for _ in range(3)]
    [(0, ([1.0], None)), (1, ([2.0], None)), (0, ([1.0], None))]
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._batches: Iterator[Batch] = iter(examples)
        self._place = 0

    @property
    def place(self) -> int:
        """How many batches of this round were returned."""
        return self._place

    def seek(self, place: int) -> None:
        """Go to where so many batches of a round have been returned."""
        self._batches, self._place = iter(self._examples), place
        for _ in range(place):
            next(self._batches)

    def next(self) -> tuple[int, Batch]:
        """Return the next batch and its place among them all."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches, self._place = iter(self._examples), 0
            batch = next(self._batches)
        self._place += 1
        return self._place - 1, batch
