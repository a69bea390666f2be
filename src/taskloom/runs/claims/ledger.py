"""What the page on claims says, put together from claims and rows; no formatting.

`Ledger` is made once from a results file; the page, the pictures, the pages of methods and the chooser
read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from taskloom import registry
from taskloom.runs.claims.claim import BASE, Claim, records
from taskloom.runs.claims.learned import learned
from taskloom.runs.claims.measures import (
    EXPERT,
    Index,
    Mean,
    Scope,
    accuracies,
    crossed_mean,
    index,
    normalised,
    scopes,
)
from taskloom.runs.claims.results import Results, Row
from taskloom.runs.claims.suite import load_suite, suite_names
from taskloom.runs.claims.verdict import Verdict, judge


@dataclass(frozen=True)
class Measurement:
    """One method in one scope: means over seeds and tasks, and what they cost.

    Attributes
    ----------
    accuracy, normalised
        Means with intervals; None if every row failed.
    chosen
        What validation chose for ``scale``, by seed; empty if nothing.
    seconds
        Mean over seeds, of one merge.
    stored
        Bytes kept, by those of one model.
    failed
        Why there are no numbers.
    """

    method: str
    scope: Scope
    accuracy: Mean | None
    normalised: Mean | None
    chosen: tuple[float, ...] = ()
    seconds: float | None = None
    stored: float | None = None
    failed: str = ""


@dataclass(frozen=True)
class Missing:
    """What a built-in suite plans and the results lack."""

    suite: str
    seeds: tuple[int, ...]  # planned
    measured: tuple[int, ...]  # seeds with rows
    rows: int  # rows that are missing


@dataclass(frozen=True)
class Ledger:
    """Claims held against one results file."""

    results: Results

    @property
    def rows(self) -> Sequence[Row]:
        """All rows."""
        return self.results.rows

    @cached_property
    def _index(self) -> Index:
        return index(self.rows)

    @cached_property
    def scopes(self) -> list[Scope]:
        """The pool of every suite and kind of experts that claims rest on."""
        return scopes(self.rows)

    @property
    def kinds(self) -> list[str]:
        """Kinds of experts that there are rows of."""
        return sorted({scope.experts for scope in self.scopes})

    def of_kind(self, kind: str) -> list[Scope]:
        """Return the pools of one kind of experts that claims rest on, of all suites."""
        return [scope for scope in self.scopes if scope.experts == kind]

    def verdicts(self, method: str, claim: Claim) -> dict[str, Verdict]:
        """Return the verdict over all suites by kind of experts, as far as the claim is about that kind.

        Without rows, or for a claim that no suite can test, there is one under ``""``.
        """
        wanted = getattr(claim.check, "experts", None)
        kinds = [kind for kind in self.kinds if wanted in (None, kind)]
        if claim.check.kind == "untestable":
            return {"": judge(claim.check, method, {}, [])}
        if not kinds:
            return {"": Verdict("not measured yet", why="there are no rows of such experts")}
        return {kind: judge(claim.check, method, self._index, self.of_kind(kind)) for kind in kinds}

    def by_suite(self, method: str, claim: Claim, kind: str) -> dict[str, Verdict]:
        """Return the verdict of every suite alone, for one kind of experts."""
        return {
            scope.suite: judge(claim.check, method, self._index, [scope]) for scope in self.of_kind(kind)
        }

    def measurement(self, method: str, scope: Scope) -> Measurement | None:
        """Return what was measured of a method in a scope; None if there is no row."""
        found = self._index.get((method, scope), ())
        if not found:
            return None
        failed = next((row.failed for row in found if row.failed is not None), "")
        whole = [row for row in found if row.failed is None]
        seconds = [row.seconds for row in whole if row.seconds is not None]
        return Measurement(
            method,
            scope,
            crossed_mean(accuracies(self._index, method, scope)),
            crossed_mean(normalised(self._index, method, scope)),
            tuple(row.chosen["scale"] for row in whole if "scale" in row.chosen),
            sum(seconds) / len(seconds) if seconds else None,
            self._stored(whole, scope),
            failed,
        )

    def measurements(self, scope: Scope) -> list[Measurement]:
        """Return all methods of a scope, the best mean of normalised accuracy first, failures last."""
        names = dict.fromkeys(row.method for row in self.rows)
        found = [each for name in names if (each := self.measurement(name, scope)) is not None]
        return sorted(found, key=_rank)

    def together(self, method: str, kind: str) -> Mean | None:
        """Return the mean of normalised accuracy over the tasks of all suites, if there are rows."""
        cells = {
            cell: value
            for scope in self.of_kind(kind)
            for cell, value in normalised(self._index, method, scope).items()
        }
        return crossed_mean(cells) if cells else None

    def curve(self, method: str, scope: Scope) -> list[Measurement]:
        """Return a method's measurements in growing pools of a scope's suite and experts."""
        counts = sorted(
            {r.count for r in self.rows if (r.suite, r.experts) == (scope.suite, scope.experts)}
        )
        pools = [Scope(scope.suite, scope.experts, count) for count in counts]
        return [each for pool in pools if (each := self.measurement(method, pool)) is not None]

    @cached_property
    def missing(self) -> list[Missing]:
        """What built-in suites plan and these results lack, by suite; suites without any row included.

        Empty if everything is there, or if there is nothing at all.
        """
        if not self.rows:
            return []
        found = []
        names = [BASE, EXPERT, *(entry.name for entry in registry.entries("merge"))]
        there = {row.place for row in self.rows}
        for name in sorted({*suite_names(), *self.results.suites} & {*suite_names()}):
            suite = load_suite(name)
            planned = {
                (name, kind, seed, count, method)
                for kind in suite.experts
                for seed in suite.seeds
                for count in suite.sizes(seed)
                for method in names
            }
            if lacking := planned - there:
                seeds = sorted({row.seed for row in self.rows if row.suite == name})
                found.append(Missing(name, tuple(suite.seeds), tuple(seeds), len(lacking)))
        return found

    def _stored(self, rows: Iterable[Row], scope: Scope) -> float | None:
        bases = [row.stored_bytes for row in self._index.get((BASE, scope), ()) if row.stored_bytes]
        kept = [row.stored_bytes for row in rows if row.stored_bytes is not None]
        return sum(kept) / len(kept) / bases[0] if bases and kept else None


def merge_claims() -> list[tuple[str, Claim]]:
    """Return every claim about a merging method with its name, in the order of the file."""
    return [(name, claim) for name, found in records().items() for claim in found.claims]


def learned_claims() -> list[tuple[str, Claim]]:
    """Return every claim about a composition that learns with its name, in the order of the file."""
    return [(name, claim) for name, found in learned().items() for claim in found.claims]


def _rank(found: Measurement) -> tuple[float, str]:
    mean = found.normalised
    return (-mean.value if mean is not None else float("inf"), found.method)
