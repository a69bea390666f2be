"""Verdicts on claims, computed from rows and never typed.

A claim holds if the interval of what it says lies above its mark, does not hold here if it lies below,
and is not decided here if it spans the mark. Of a claim against several rivals the worst one counts.
Nothing is corrected for the number of claims: at 95 % about one comparison in twenty of two equal
methods is decided by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taskloom.errors import DataError
from taskloom.runs.claims.claim import Better, Check, Retains, Untestable, Yardstick
from taskloom.runs.claims.measures import Index, Mean, Scope, accuracies, crossed_mean, differences
from taskloom.runs.claims.measures import normalised as by_expert

Word = Literal[
    "holds",
    "does not hold here",
    "not decided here",
    "cannot be tested here",
    "not measured yet",
]


@dataclass(frozen=True)
class Comparison:
    """What was held against the mark: a difference to a rival, or a share of the expert's accuracy."""

    against: str  # the rival's name, or "expert"
    mark: float
    mean: Mean

    @property
    def word(self) -> Word:
        """Say on which side of the mark the interval lies; without an interval nothing is decided."""
        if self.mean.low is not None and self.mean.low > self.mark:
            return "holds"
        if self.mean.high is not None and self.mean.high < self.mark:
            return "does not hold here"
        return "not decided here"


@dataclass(frozen=True)
class Verdict:
    """The word, what it rests on, and what a reader must know beside it."""

    word: Word
    comparisons: tuple[Comparison, ...] = ()
    why: str = ""


def judge(check: Check, method: str, rows: Index, scopes: Sequence[Scope]) -> Verdict:
    """Hold one claim against the rows of some scopes, taken together.

    Parameters
    ----------
    check
        The claim in the suites' words.
    method
        Whose claim it is.
    rows
        All rows of the results (`taskloom.runs.claims.measures.index`).
    scopes
        One suite's, or several suites' to take their tasks side by side; experts of one kind.

    Raises
    ------
    DataError
        Scopes with experts of different kinds, or one a suite is in twice.
    """
    if isinstance(check, Untestable):
        return Verdict("cannot be tested here", why=check.why)
    if len({scope.experts for scope in scopes}) > 1 or len({s.suite for s in scopes}) < len(scopes):
        raise DataError(
            f"claims of {method}: scopes {[*scopes]} cannot be taken together",
            hint="Take every suite once, with experts of one kind",
        )
    scopes = [scope for scope in scopes if check.experts in (None, scope.experts)]
    if not scopes:
        return Verdict("cannot be tested here", why=f"the claim is about {check.experts} experts")
    rivals = check.than if isinstance(check, Better) else []
    obstacle = _obstacle([method, *rivals], rows, scopes)
    if obstacle is not None:
        return obstacle
    if isinstance(check, Retains):
        comparisons = _compare("expert", check.at_least, _cells(method, rows, scopes, "normalised"))
    else:
        own = _cells(method, rows, scopes, check.yardstick)
        comparisons = ()
        for rival in rivals:
            other = _cells(rival, rows, scopes, check.yardstick)
            comparisons += _compare(rival, check.margin, differences(own, other))
    if len(comparisons) < max(1, len(rivals)):
        return Verdict("not measured yet", why="no seed has rows of all methods in all suites")
    return Verdict(_worst([each.word for each in comparisons]), comparisons, _of_seeds(comparisons))


def _obstacle(methods: Sequence[str], rows: Index, scopes: Sequence[Scope]) -> Verdict | None:
    """Say what keeps a claim from being checked: a failure before a row that is missing."""
    missing = None
    for name in methods:
        for scope in scopes:
            found = rows.get((name, scope), ())
            for row in found:
                if row.failed is not None:
                    where = f"{name} on {scope.suite}, seed {row.seed}"
                    return Verdict("cannot be tested here", why=f"{where}: {row.failed}")
            if not found and missing is None:
                missing = Verdict("not measured yet", why=f"no row of {name} on {scope.suite}")
    return missing


def _cells(
    method: str, rows: Index, scopes: Sequence[Scope], yardstick: Yardstick
) -> dict[tuple[int, str, str], float]:
    measure = by_expert if yardstick == "normalised" else accuracies
    return {cell: value for s in scopes for cell, value in measure(rows, method, s).items()}


def _compare(
    against: str, mark: float, cells: dict[tuple[int, str, str], float]
) -> tuple[Comparison, ...]:
    mean = crossed_mean(cells)
    return () if mean is None else (Comparison(against, mark, mean),)


def _worst(words: Sequence[Word]) -> Word:
    for word in ("does not hold here", "not decided here"):
        if word in words:
            return word
    return "holds"


def _of_seeds(comparisons: Sequence[Comparison]) -> str:
    if any(each.mean.low is None for each in comparisons):
        return "one task has no interval"
    if any(len(each.mean.seeds) == 1 for each in comparisons):
        return "one seed: the interval is over tasks only"
    return ""
