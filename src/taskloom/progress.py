"""How long work tells how far it is, without knowing who listens.

Long functions take ``progress: Progress = silent`` and call it as ``progress("train trec6", 12, 40)``:
the label of the work, what is done, and the total (None when unknown). The command line listens with
rich; a test may listen with a list.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a stable label, the amount done, and the total or None."""

    def __call__(self, label: str, done: float, total: float | None, /) -> None:
        """Hear how far the work named by ``label`` has come."""


def silent(label: str, done: float, total: float | None, /) -> None:
    """Listen to nothing.

    >>> silent("train", 1, 2)
    """
