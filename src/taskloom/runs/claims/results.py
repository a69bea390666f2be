"""The results file of the claims ledger: a row per measurement, written as it is measured.

``{"format": 1, "suites": {name: {"title", "tasks", "lock"}}, "rows": [...]}``, a row a line. A row is
known by its suite, experts, seed, count, method and options; it is never measured twice. The lock says
what the rows of a suite were measured with; rows of something else do not go into the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from taskloom.errors import IntegrityError, OutputError, TaskloomError
from taskloom.evaluation.strict import Strict, parse
from taskloom.runs.row_file import alone, lay_out
from taskloom.store.atomic import atomic_file

FORMAT = 1
_WAY_OUT = "Measure into another file with --output, or take the suite's rows out of this one"


class Measured(Strict):
    """Accuracy of a model on the test examples of one task."""

    value: float = Field(ge=0, le=1)
    n: int = Field(ge=1)


class Row(Strict):
    """One method on one pool, or the base, or every expert on its own task.

    Attributes
    ----------
    experts
        How the pool's experts were trained.
    count
        The pool holds the experts of the suite's first so many tasks.
    method
        A registered merging method, ``base`` or ``expert``.
    options
        What the method was run with, defaults included, without what was chosen.
    chosen
        What validation chose; empty if nothing.
    seconds
        Of one merge in memory, or of making the parts of all tasks; not of choosing.
    stored_bytes
        Of all that must be kept to have a model for every task of the pool, heads apart.
    scores
        By task, in the pool's order.
    failed
        Why there are no scores, in one sentence.
    """

    suite: str
    experts: str
    seed: int
    count: int
    method: str
    options: dict[str, Any]
    chosen: dict[str, Any] = Field({})
    seconds: float | None = None
    stored_bytes: int | None = None
    scores: dict[str, Measured] | None = None
    failed: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Row:
        if (self.scores is None) == (self.failed is None):
            raise ValueError("a row has either scores or the reason why there are none")
        return self

    @property
    def place(self) -> tuple[str, str, int, int, str]:
        """What was measured, options apart."""
        return self.suite, self.experts, self.seed, self.count, self.method

    def line(self) -> str:
        """Return the row as one line of JSON."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), ensure_ascii=False)


class Seeded(Strict):
    """Digests of what a seed decides: data by task, experts by kind and task."""

    data: dict[str, str]
    experts: dict[str, dict[str, str]]


class Lock(Strict):
    """What the rows of a suite were measured with.

    ``commits`` are those of this project's checkout that rows were measured at, with ``+`` if it held
    changes; none outside a checkout.
    """

    suite: str = Field(description="Digest of the suite.")
    code: int = Field(description="Version of the measurement itself.")
    base: str
    versions: dict[str, str]
    machine: str
    commits: list[str] = Field([])
    seeds: dict[str, Seeded]


class SuiteEntry(Strict):
    """A suite of which there are rows."""

    title: str
    tasks: list[str]
    lock: Lock


class Results(Strict):
    """The whole file."""

    format: Literal[1] = 1
    suites: dict[str, SuiteEntry] = Field({})
    rows: list[Row] = Field([])

    def text(self) -> str:
        """Return the file's text."""
        suites = {name: entry.model_dump(mode="json") for name, entry in self.suites.items()}
        return lay_out({"format": self.format, "suites": suites}, [row.line() for row in self.rows])


def read_results(path: Path) -> Results:
    """Read a results file; one that is not there is empty.

    Raises
    ------
    OutputError
        It is no results file of this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return parse(Results, content, where=str(path))
    except FileNotFoundError:
        return Results()
    except (OSError, ValueError, TaskloomError) as error:
        raise OutputError(
            f"{path}: expected a results file of format {FORMAT}, but: {' '.join(str(error).split())}",
            hint="Measure into another file with --output",
        ) from None


class Book:
    """A results file that rows are added to, by one process at a time and row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, ...], Results] | None = None

    def open(self, suite: str, entry: SuiteEntry) -> None:
        """Enter a suite, or hold what is measured now against what its rows were measured with.

        Raises
        ------
        OutputError
            The file is no results file.
        IntegrityError
            The suite, the data, an expert or a version has changed since.
        """
        with alone(self.path, "claims"):
            found = read_results(self.path)
            known = found.suites.get(suite)
            merged = entry if known is None else _joined(self.path, suite, known, entry)
            self._write(found.model_copy(update={"suites": {**found.suites, suite: merged}}))

    def known(self, place: tuple[str, str, int, int, str], options: Mapping[str, Any]) -> bool:
        """Tell whether a measurement is there already.

        Raises
        ------
        IntegrityError
            It is there with other options: the method's defaults have changed since.
        """
        for row in self._results().rows:
            if row.place == place:
                if row.options == dict(options):
                    return True
                differ = sorted(
                    name
                    for name in {*row.options, *options}
                    if row.options.get(name) != options.get(name)
                )
                suite, experts, seed, count, method = place
                raise IntegrityError(
                    f"{self.path}: {method} on {count} experts {experts!r} of suite {suite!r}, seed "
                    f"{seed}, was measured with another {' and '.join(differ)} than it has now",
                    hint="Take that row out of the file to measure it again, or use --output",
                )
        return False

    def add(self, row: Row) -> None:
        """Write the file with one more row, whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written, is no results file, or has the row by now.
        """
        with alone(self.path, "claims"):
            found = read_results(self.path)
            if any(other.place == row.place for other in found.rows):
                raise OutputError(
                    f"{self.path}: another process has measured {row.method} of {row.suite!r} meanwhile",
                    hint="Measure a suite and seed in one process at a time",
                )
            self._write(found.model_copy(update={"rows": [*found.rows, row]}))

    def _results(self) -> Results:
        """Read the file, unless it is as it was read last."""
        try:
            found = self.path.stat()
        except OSError:
            return read_results(self.path)
        mark = found.st_mtime_ns, found.st_size, found.st_ino
        if self._read is None or self._read[0] != mark:
            self._read = mark, read_results(self.path)
        return self._read[1]

    def _write(self, results: Results) -> None:
        with atomic_file(self.path) as temporary:
            temporary.write_text(results.text(), encoding="utf-8")


def _joined(path: Path, suite: str, known: SuiteEntry, now: SuiteEntry) -> SuiteEntry:
    """Return the entry with what is new in it."""
    old, new = known.lock, now.lock
    what = {
        "the suite": (old.suite, new.suite),
        "the version of the measurement": (old.code, new.code),
        "the base": (old.base, new.base),
    }
    what |= {
        f"the version of {name}": (old.versions.get(name), new.versions.get(name))
        for name in sorted({*old.versions, *new.versions})
    }
    seeds = dict(old.seeds)
    for seed, one in new.seeds.items():
        before = seeds.get(seed)
        if before is None:
            seeds[seed] = one
            continue
        what |= {
            f"the data of task {task!r}": (before.data.get(task), digest)
            for task, digest in one.data.items()
        }
        together = dict(before.experts)
        for kind, experts in one.experts.items():
            known_ones = together.get(kind, {})
            what |= {
                f"the expert of {task!r} ({kind}, seed {seed})": (known_ones.get(task, digest), digest)
                for task, digest in experts.items()
            }
            together[kind] = {**known_ones, **experts}
        seeds[seed] = Seeded(data=one.data, experts=together)
    changed = [name for name, (was, is_now) in what.items() if was != is_now]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise IntegrityError(
            f"{path}: {changed[0]}{more} changed since rows of suite {suite!r} were measured",
            hint=_WAY_OUT,
        )
    commits = [*old.commits, *(c for c in new.commits if c not in old.commits)]
    lock = old.model_copy(update={"seeds": seeds, "commits": commits})
    return SuiteEntry(title=now.title, tasks=now.tasks, lock=lock)
