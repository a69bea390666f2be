"""Losses with known optima, and proposers driven over them."""

import numpy as np

from taskloom.learn.search.journal import Measured
from taskloom.learn.search.space import Gene, Space


def space(count, low=-1.5, high=1.5, start=0.0):
    return Space(tuple(Gene(("weights", f"e{i}"), start, low, high) for i in range(count)))


def bowl(target):
    """Return the squared distance of a candidate's weights to ``target``."""
    goal = np.asarray(target)
    return lambda candidate: float(((np.array([*candidate["weights"].values()]) - goal) ** 2).sum())


class Meter:
    """Measures candidates by a function, and counts; may stop everything at some call."""

    def __init__(self, function, seconds=1.0, stop_at=None):
        self.function, self.seconds, self.stop_at, self.calls = function, seconds, stop_at, 0

    def __call__(self, candidate):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        return Measured({"task": self.function(candidate)}, {"task": 0.5}, self.seconds)


def plain(candidate, losses):
    return losses["task"]


def told(proposer, function, count):
    """Drive a proposer; return candidates and losses, and what it recommends."""
    rows = []
    for _ in range(count):
        candidate = proposer.ask()
        if candidate is None:
            break
        rows.append((candidate, function(candidate)))
        proposer.tell(rows[-1][1])
    return rows, proposer.recommend()
