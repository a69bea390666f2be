"""Seeded subsamples that keep the shares of the classes and nest: a larger one contains a smaller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples
from taskloom.evaluation.rows import keyed_order


def stratified(
    examples: Examples, keys: Sequence[str], most: int | None, *, seed: int, every_class: bool = False
) -> Examples:
    """Return at most ``most`` examples, in their old order, with about the old class shares.

    Parameters
    ----------
    keys
        What identifies each example's content, (N,); with ``seed`` it decides who is chosen.
    every_class
        Give each class that occurs at least one example.

    Raises
    ------
    DataError
        ``most`` is not positive, or with ``every_class`` less than the number of classes.
    """
    if most is None or most >= len(examples):
        return examples
    counts = np.bincount(examples.labels)
    present = int((counts > 0).sum())
    least = present if every_class else 1
    if most < least:
        raise DataError(f"{most} examples cannot be drawn: at least {least} are needed")
    shares = allocate(counts.tolist(), most, every_class=every_class)
    chosen: list[int] = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(examples.labels == label).tolist()
        members.sort(key=lambda i: keyed_order(keys[i], "sample", seed))
        chosen += members[:share]
    return examples.take(sorted(chosen))


def allocate(counts: Sequence[int], total: int, *, every_class: bool = False) -> list[int]:
    """Divide ``total`` among classes in proportion to ``counts`` (largest remainders).

    >>> allocate([90, 9, 1], 10), allocate([90, 9, 1], 10, every_class=True)
    ([9, 1, 0], [8, 1, 1])
    """
    whole = sum(counts)
    floor = [min(1, count) if every_class else 0 for count in counts]
    exact = [total * count / whole for count in counts]
    shares = [max(int(part), low) for part, low in zip(exact, floor, strict=True)]
    while sum(shares) < total:
        open_classes = [i for i, count in enumerate(counts) if shares[i] < count]
        shares[max(open_classes, key=lambda i: (exact[i] - shares[i], -i))] += 1
    while sum(shares) > total:
        large = [i for i in range(len(counts)) if shares[i] > floor[i]]
        shares[min(large, key=lambda i: (exact[i] - shares[i], i))] -= 1
    return shares
