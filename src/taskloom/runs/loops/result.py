"""What a training loop that merges found out: its rounds, what it is compared with, as rows to plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taskloom.evaluation.score import Score
from taskloom.runs.verdict import mean_interval


@dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes
    ----------
    number
        Counted from 1; 0 is the start.
    digest
        Of the weights after it.
    merged
        What went into the merge, each a dict with ``name``, ``digest``, ``steps`` and ``weight``.
    scores
        Of the merged model on the validation examples of every task.
    steps
        Optimiser steps taken in the round, by all that were tuned.
    seconds
        Wall time of tuning, merging and scoring.
    tried
        Rows of a search, where there is one (ForkMerge).
    """

    number: int
    digest: str
    merged: tuple[Mapping[str, Any], ...]
    scores: tuple[Score, ...]
    steps: int
    seconds: float
    tried: tuple[Mapping[str, Any], ...] = ()

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return sum(s.value for s in self.scores) / len(self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean."""
        return mean_interval([(s.value, s.low, s.high) for s in self.scores])

    def row(self) -> dict[str, Any]:
        """Return one row of the trace."""
        low, high = self.interval
        found: dict[str, Any] = {"round": self.number, "steps": self.steps, "seconds": self.seconds}
        for s in self.scores:
            found |= {s.task: s.value, f"{s.task} low": s.low, f"{s.task} high": s.high}
            found[f"{s.task} n"] = s.n
        found |= {"mean": self.mean, "low": low, "high": high}
        found["merged"] = "; ".join(f"{each['name']} {each['weight']:.4g}" for each in self.merged)
        return found

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        return asdict(self)

    @classmethod
    def of_plain(cls, table: Mapping[str, Any]) -> Round:
        """Undo `plain`."""
        lists = {name: tuple(table[name]) for name in ("merged", "tried")}
        scores = tuple(Score(**each) for each in table["scores"])
        return cls(**{**table, **lists, "scores": scores})


@dataclass(frozen=True)
class Gain:
    """By how much the loop beats something on the same examples of a task, with its 95 % interval."""

    task: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """Something the loop is compared with.

    Attributes
    ----------
    name
        ``start``, ``joint``, ``one-shot``, ...
    what
        How it was made, in words.
    steps
        Optimiser steps it took.
    scores
        On the same validation examples.
    gains
        The loop's score less this one's: by task, paired by example, and ``mean`` over the tasks.
    """

    name: str
    what: str
    steps: int
    scores: tuple[Score, ...]
    gains: tuple[Gain, ...]


@dataclass(frozen=True)
class Loop:
    """A finished loop.

    Attributes
    ----------
    method, options, tasks, seed
        What was asked for.
    rounds
        The start as round 0, then every round.
    compared
        What it is held against.
    steps
        Optimiser steps of all rounds.
    notes
        What else is to be said.
    path
        Where the model was written.
    """

    method: str
    options: Mapping[str, Any]
    tasks: tuple[str, ...]
    seed: int
    rounds: tuple[Round, ...]
    compared: tuple[Compared, ...] = ()
    notes: tuple[str, ...] = ()
    path: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimiser steps of all rounds."""
        return sum(each.steps for each in self.rounds)

    @property
    def last(self) -> Round:
        """The last round, whose model is the result."""
        return self.rounds[-1]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per round: steps, seconds, every score with interval and n, what was merged."""
        return [each.row() for each in self.rounds]

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        return {
            "method": self.method,
            "options": dict(self.options),
            "tasks": list(self.tasks),
            "seed": self.seed,
            "steps": self.steps,
            "rounds": [each.plain() for each in self.rounds],
            "compared": [asdict(each) for each in self.compared],
            "notes": list(self.notes),
        }


def mean_gain(gains: Sequence[Gain]) -> Gain:
    """Return the mean of gains over tasks, its interval as `mean_interval` has it.

    >>> mean_gain([Gain("a", 0.2, 0.1, 0.3), Gain("b", 0.0, -0.1, 0.1)]).gain
    0.1
    """
    low, high = mean_interval([(g.gain, g.low, g.high) for g in gains])
    return Gain("mean", sum(g.gain for g in gains) / len(gains), low, high)
