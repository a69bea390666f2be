"""The results file of a transfer matrix: a row a cell, written as it is measured.

``{"format": 1, "plan": {...}, "rows": [...]}``, a row a line, one plan a file. A row is known by its
way, source, target and seed, and is measured once. The lock says what rows were measured with; rows of
something else do not go into the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from taskloom.errors import IntegrityError, OutputError, TaskloomError
from taskloom.evaluation.strict import Strict, parse
from taskloom.runs.row_file import alone, lay_out
from taskloom.store.atomic import atomic_file

FORMAT = 1
_WAY_OUT = "Measure into another file with --output, or take the old rows out of this one"
#: (way, source, target, seed)
Place = tuple[str, str, str, int]


class Cell(Strict):
    """One source on one target in one way and seed; or no source, which is called ``base``.

    Attributes
    ----------
    test, n_test
        Accuracy on the target's test examples, and how many there are.
    validation
        On its validation examples, of the weights that were kept.
    steps
        Optimiser steps of the fine-tuning.
    seconds
        Of processors, for training and scoring; what the cells of a source and target share is not in
        it: their data and the head.
    failed
        Why there is no number, in one sentence.
    """

    way: str
    source: str
    target: str
    seed: int
    test: float | None = Field(None, ge=0, le=1)
    n_test: int | None = Field(None, ge=1)
    validation: float | None = Field(None, ge=0, le=1)
    steps: int | None = None
    seconds: float | None = None
    failed: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Cell:
        if (self.test is None) == (self.failed is None) or (self.test is None) != (self.n_test is None):
            raise ValueError("a row has either test and n_test or the reason why there are none")
        return self

    @property
    def place(self) -> Place:
        """What was measured."""
        return self.way, self.source, self.target, self.seed

    def line(self) -> str:
        """Return the row as one line of JSON."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), ensure_ascii=False)


class SourceFacts(Strict):
    """What is known of a source expert from its own task, before any target is looked at.

    Attributes
    ----------
    train, classes
        Training examples of the source, and its classes.
    before, after
        Validation accuracy on its own task of the base and of the expert, under the base's head.
    moved
        Euclidean norm of the change of the weights by that of the base's.
    seconds
        Of its training, whenever that was.
    """

    train: int
    classes: int
    before: float
    after: float
    moved: float
    seconds: float


class Seeded(Strict):
    """What a seed decides: digests of the targets' data and of the source experts, and their facts."""

    data: dict[str, str] = Field({})
    experts: dict[str, str] = Field({})
    facts: dict[str, SourceFacts] = Field({})


class Lock(Strict):
    """What the rows of a file were measured with; as `taskloom.runs.claims.results.Lock`."""

    plan: str = Field(description="Digest of everything in the plan that all rows depend on.")
    ways: dict[str, str] = Field(description="Digest of every way's options.")
    code: int = Field(description="Version of the measurement itself.")
    base: str
    versions: dict[str, str]
    machine: str
    commits: list[str] = Field([])
    seeds: dict[str, Seeded] = Field({})


class TaskFacts(Strict):
    """How a page calls a task, and what an estimate may look at without its examples."""

    title: str
    description: str
    classes: int


class PlanEntry(Strict):
    """The plan of which these are the rows."""

    name: str
    title: str
    sources: list[str]
    targets: list[str]
    ways: list[str]
    seeds: list[int]
    labels: int
    left_out: dict[str, dict[str, str]] = Field(
        {}, description="Target -> source -> why the pair is no cell of the grid."
    )
    tasks: dict[str, TaskFacts]
    lock: Lock


class Matrix(Strict):
    """The whole file."""

    format: Literal[1] = 1
    plan: PlanEntry | None = None
    rows: list[Cell] = Field([])

    def text(self) -> str:
        """Return the file's text."""
        plan = None if self.plan is None else self.plan.model_dump(mode="json")
        return lay_out({"format": self.format, "plan": plan}, [row.line() for row in self.rows])

    def by_place(self) -> dict[Place, Cell]:
        """Index the rows."""
        return {row.place: row for row in self.rows}


def planned(entry: PlanEntry, base: str) -> list[Place]:
    """Return every place of the grid, the base's first, by seed and target.

    >>> lock = Lock(plan="", ways={}, code=1, base="", versions={}, machine="")
    >>> entry = PlanEntry(name="p", title="P", sources=["a", "b"], targets=["b"], ways=["full"],
    ...     seeds=[0], labels=8, left_out={"b": {"b": "itself"}}, tasks={}, lock=lock)
    >>> planned(entry, "base")
    [('full', 'base', 'b', 0), ('full', 'a', 'b', 0)]
    """
    return [
        (way, source, target, seed)
        for seed in entry.seeds
        for target in entry.targets
        for source in (base, *entry.sources)
        if source not in entry.left_out.get(target, {})
        for way in entry.ways
    ]


def read_matrix(path: Path) -> Matrix:
    """Read a results file; one that is not there is empty.

    Raises
    ------
    OutputError
        It is no results file of this format.
    """
    try:
        return parse(Matrix, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError:
        return Matrix()
    except (OSError, ValueError, TaskloomError) as error:
        raise OutputError(
            f"{path}: expected a transfer matrix of format {FORMAT}, but: "
            f"{' '.join(str(error).split())}",
            hint="Measure into another file with --output",
        ) from None


class Book:
    """A results file that rows are added to, row by row, each time whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, entry: PlanEntry) -> None:
        """Enter a plan, or hold what is measured now against what the rows were measured with.

        A plan may have grown: sources, targets, ways and seeds that are new are added.

        Raises
        ------
        OutputError
            The file is no results file, or is one of another plan.
        IntegrityError
            The plan, the base or a version has changed since.
        """
        with alone(self.path, "transfer"):
            found = read_matrix(self.path)
            known = found.plan
            if known is not None and known.name != entry.name:
                raise OutputError(
                    f"{self.path}: expected rows of the plan {entry.name!r}, found {known.name!r}",
                    hint="Measure into another file with --output",
                )
            merged = entry if known is None or not found.rows else _joined(self.path, known, entry)
            self._write(found.model_copy(update={"plan": merged}))

    def add(self, rows: Sequence[Cell], seed: int, seeded: Seeded, *, replace: bool = False) -> None:
        """Write the file with more rows, and with what they were measured with.

        Parameters
        ----------
        rows, seed, seeded
            Rows of one seed, and digests of the data and experts that they are of.
        replace
            Rows that failed give way to new ones of their place.

        Raises
        ------
        IntegrityError
            Data or an expert is not what earlier rows were measured with.
        OutputError
            The file cannot be written, is no results file, or has such a row by now.
        """
        with alone(self.path, "transfer"):
            found = read_matrix(self.path)
            assert found.plan is not None
            lock = found.plan.lock
            before = lock.seeds.get(str(seed), Seeded())
            seeds = {**lock.seeds, str(seed): _same(self.path, seed, before, seeded)}
            plan = found.plan.model_copy(update={"lock": lock.model_copy(update={"seeds": seeds})})
            new = {row.place for row in rows}
            kept = [r for r in found.rows if not (replace and r.failed is not None and r.place in new)]
            for row in kept:
                if row.place in new:
                    raise OutputError(
                        f"{self.path}: another process has measured {row.source!r} on {row.target!r} "
                        "meanwhile",
                        hint="Measure a plan in one run at a time; --workers uses several processes",
                    )
            self._write(found.model_copy(update={"plan": plan, "rows": [*kept, *rows]}))

    def _write(self, matrix: Matrix) -> None:
        with atomic_file(self.path) as temporary:
            temporary.write_text(matrix.text(), encoding="utf-8")


def _same(path: Path, seed: int, before: Seeded, now: Seeded) -> Seeded:
    for what, old, new in (
        ("the data of the target", before.data, now.data),
        ("the expert of", before.experts, now.experts),
    ):
        for name, digest in new.items():
            if old.get(name, digest) != digest:
                raise IntegrityError(
                    f"{path}: {what} {name!r}, seed {seed}, changed since rows were measured",
                    hint=_WAY_OUT,
                )
    return Seeded(
        data={**before.data, **now.data},
        experts={**before.experts, **now.experts},
        facts={**before.facts, **now.facts},
    )


def _joined(path: Path, known: PlanEntry, now: PlanEntry) -> PlanEntry:
    old, new = known.lock, now.lock
    what = {
        "the plan": (old.plan, new.plan),
        "the version of the measurement": (old.code, new.code),
        "the base": (old.base, new.base),
    }
    what |= {
        f"the version of {name}": (old.versions.get(name), new.versions.get(name))
        for name in sorted({*old.versions, *new.versions})
    }
    both = old.ways.keys() & new.ways.keys()
    what |= {f"the way {way}": (old.ways[way], new.ways[way]) for way in sorted(both)}
    changed = [name for name, (was, is_now) in what.items() if was != is_now]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise IntegrityError(
            f"{path}: {changed[0]}{more} changed since rows were measured", hint=_WAY_OUT
        )
    lock = old.model_copy(
        update={
            "ways": {**old.ways, **new.ways},
            "commits": [*old.commits, *(c for c in new.commits if c not in old.commits)],
        }
    )
    return PlanEntry(
        name=now.name,
        title=now.title,
        sources=_more(known.sources, now.sources),
        targets=_more(known.targets, now.targets),
        ways=_more(known.ways, now.ways),
        seeds=sorted({*known.seeds, *now.seeds}),
        labels=now.labels,
        left_out=_both(known.left_out, now.left_out),
        tasks={**known.tasks, **now.tasks},
        lock=lock,
    )


def _more(known: Sequence[str], now: Sequence[str]) -> list[str]:
    return [*known, *(name for name in now if name not in known)]


def _both(
    known: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    return {
        target: {**known.get(target, {}), **now.get(target, {})} for target in _more([*known], [*now])
    }
