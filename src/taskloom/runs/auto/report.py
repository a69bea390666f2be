"""What ``taskloom auto`` found, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskloom.evaluation.score import Score
from taskloom.runs.auto.ground import Regime
from taskloom.runs.auto.ladder import Rung
from taskloom.runs.judging import Guarded, Kind


@dataclass(frozen=True)
class Point:
    """What a member came to on one rung: its score with its 95 % interval, on n examples."""

    rung: int
    share: float
    value: float
    low: float
    high: float
    n: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One member of the portfolio, or a rival that was in the check alone.

    Attributes
    ----------
    name, kind, title
        Of the member.
    points
        Rung by rung; none if there was no time to try it, or if it was no member.
    check
        On the examples that chose nothing; None if it was not among those that were checked.
    why
        Why it went no further; empty for the best of the climb.
    said
        What a fit or a training says of itself.
    """

    name: str
    kind: Kind
    title: str
    points: tuple[Point, ...]
    check: Point | None
    why: str
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def last(self) -> Point | None:
        """The highest rung that it reached."""
        return self.points[-1] if self.points else None

    @property
    def seconds(self) -> float:
        """Of trying and checking it."""
        return sum(p.seconds for p in (*self.points, *filter(None, [self.check])))


@dataclass(frozen=True)
class AutoReport:
    """What was tried, what won, and where it is.

    Attributes
    ----------
    target, metric, base, experts
        Names.
    minutes, seconds
        The budget, and what was spent.
    regime
        How members were held against one another; ``metric`` is ``surety`` without labels.
    sizes
        Examples ``to fit on``, ``to choose by``, ``to check with``, and ``test``.
    eta, rungs, reached
        Of the halving: one of so many goes on; the rungs that were planned, and how many were tried.
    ranked, unseen
        Experts by the first look; those that there was no time to look at.
    rows
        Everything in the portfolio, in its order; then rivals that are no members.
    winner, title
        What is handed over.
    reason
        The guard's sentence.
    sentence
        For a reader, with the test score.
    verdict
        The guard's decision; None without labels.
    tests
        Test scores of the winner, the base and others that were checked.
    gain
        Winner minus base on test, with its 95 % interval; None where the base won.
    regret_bound
        With 95 % confidence nothing that was tried has an accuracy that is higher by more, as it was on
        the rung where it was dropped; None without labels.
    notes
        What a reader should know besides.
    path, model, page, picture
        Run folder, handed-over directory, report and picture of the rungs.
    """

    target: str
    metric: str
    base: str
    experts: tuple[str, ...]
    minutes: float
    seconds: float
    regime: Regime
    sizes: Mapping[str, int]
    eta: int
    rungs: tuple[Rung, ...]
    reached: int
    ranked: tuple[str, ...]
    unseen: tuple[str, ...]
    rows: tuple[Row, ...]
    winner: str
    title: str
    reason: str
    sentence: str
    verdict: Guarded | None
    tests: tuple[Score, ...]
    gain: tuple[float, float, float] | None
    regret_bound: float | None
    notes: tuple[str, ...]
    path: Path
    model: Path
    page: Path
    picture: Path

    def row(self, name: str) -> Row:
        """Return the row of a member."""
        return next(row for row in self.rows if row.name == name)
