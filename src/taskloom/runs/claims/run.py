"""``taskloom bench claims``: every merging method on the suites, row by row into one file."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taskloom import registry
from taskloom.errors import PlanError
from taskloom.learn.train import TrainedExpert
from taskloom.merging.recipe import Recipe
from taskloom.progress import Progress, silent
from taskloom.runs.claims.crew import measure_together
from taskloom.runs.claims.jobs import Job
from taskloom.runs.claims.learned import learned
from taskloom.runs.claims.measure import BASE, EXPERT, Measurer
from taskloom.runs.claims.results import Book, Lock, Results, Row, Seeded, SuiteEntry, read_results
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import Ground, Stage, lay_ground, set_stage
from taskloom.runs.claims.suite import Kind, Suite, load_suite, suite_names
from taskloom.runs.lock import versions

#: raised whenever the same suite leads to other numbers
CODE_VERSION = 1
#: where the project keeps its own measurements
OUTPUT = Path("benchmarks") / "results" / "claims.json"


@dataclass(frozen=True)
class Trained:
    """The experts of one suite, kind and seed."""

    suite: str
    kind: Kind
    seed: int
    experts: tuple[TrainedExpert, ...]


@dataclass(frozen=True)
class Wanted:
    """What of the suites is measured; None means all there is.

    Attributes
    ----------
    kinds
        Of experts.
    methods
        Merging methods, compositions (`taskloom.runs.claims.learned`), ``base`` or ``expert``; all
        merging methods, ``base`` and ``expert`` if None.
    counts
        Sizes of the pools, at most the number of a suite's tasks; if None what the suite plans for
        each seed.
    """

    seeds: Sequence[int] | None = None
    kinds: Sequence[Kind] | None = None
    methods: Sequence[str] | None = None
    counts: Sequence[int] | None = None

    def of(self, suite: Suite) -> tuple[dict[int, list[int]], list[Kind]]:
        """Return the sizes of the pools by seed, and the kinds of experts, for one suite.

        Raises
        ------
        PlanError
            A count above the number of tasks, or a kind that the suite does not have.
        """
        for kind in self.kinds or ():
            suite.plan(kind, 0)
        for count in self.counts or ():
            if not 2 <= count <= len(suite.tasks):
                raise PlanError(
                    f"a pool of {count} tasks is wanted of suite {suite.name!r}",
                    hint=f"It has {len(suite.tasks)}; give a number from 2 to that",
                )
        kinds = [kind for kind in suite.experts if self.kinds is None or kind in self.kinds]
        seeds = self.seeds or suite.seeds
        return {seed: sorted(set(self.counts or suite.sizes(seed))) for seed in seeds}, kinds

    def names(self) -> list[str]:
        """Return the methods in the order in which they are measured: yardsticks first.

        Raises
        ------
        UnknownName
            One of them is not registered.
        """
        merges = [BASE, EXPERT, *(entry.name for entry in registry.entries("merge"))]
        if self.methods is None:
            return merges
        for name in self.methods:
            if name not in (BASE, EXPERT, *learned()):
                registry.get("merge", name)
        return [name for name in (*merges, *learned()) if name in self.methods]


def train(
    suites: Sequence[str | Path] | None = None,
    wanted: Wanted | None = None,
    *,
    progress: Progress = silent,
) -> list[Trained]:
    """Train the experts of suites and collect their statistics, as far as the cache lacks them.

    Raises
    ------
    PlanError, UnknownName, DataError, CheckpointError, SourceUnreachable, NumericalError
        A suite, its data or a training; see `taskloom.errors`.
    """
    found = []
    wanted = wanted or Wanted()
    for place, stage, _ in _stages(suites, wanted, progress):
        _collect(stage, wanted.names())
        found.append(Trained(stage.ground.suite.name, place.kind, place.seed, stage.trained))
    return found


def _collect(stage: Stage, names: Sequence[str]) -> None:
    """Collect the statistics that methods need and that the cache lacks."""
    for name in names:
        if name not in (BASE, EXPERT, *learned()):
            with suppress(PlanError):  # it has no rule without more options, which its row will say
                stage.collect(Recipe.of(name, seed=stage.ground.seed).chain)


def claims(
    suites: Sequence[str | Path] | None = None,
    wanted: Wanted | None = None,
    *,
    output: str | Path = OUTPUT,
    workers: int = 1,
    progress: Progress = silent,
) -> Results:
    """Measure every method on the suites and add the rows to a file as they are measured.

    Rows that are there are not measured again, so an interrupted run goes on. Each row's test scores
    come from one reading of the test examples, with what validation chose.

    Parameters
    ----------
    suites
        Names of built-in suites or paths of YAML files; all built-in ones if None.
    wanted
        What of them.
    output
        The results file.
    workers
        Processes that rows are measured in, each with its share of the threads. More than one give the
        same rows in another order; `taskloom.runs.claims.crew` says what comes of one that fails.

    Returns
    -------
    Results
        The whole file.

    Raises
    ------
    PlanError, UnknownName, DataError, CheckpointError, SourceUnreachable, NumericalError
        As `train`.
    IntegrityError
        Rows that are there were measured with something else.
    OutputError
        The file is no results file, or cannot be written.
    """
    wanted = wanted or Wanted()
    names = wanted.names()
    book = Book(Path(output))
    read_results(book.path)  # a file that is none is refused before anything is trained
    stages = _stages(suites, wanted, progress)
    if workers == 1:
        _one_by_one(book, stages, names)
    else:
        _together(book, stages, names, workers)
    return read_results(book.path)


@dataclass(frozen=True)
class _Place:
    """Which stage: the suite as it was asked for, kind and seed of experts, sizes of pools."""

    suite: str
    kind: Kind
    seed: int
    counts: list[int]


class _Missing:
    """The rows of a stage that are not in the book yet, and how many there are by now."""

    def __init__(self, book: Book, measurer: Measurer, place: _Place, names: Sequence[str]) -> None:
        stage = measurer.stage
        book.open(stage.ground.suite.name, _entry(stage))
        self.todo = [
            (name, count)
            for count in place.counts
            for name in names
            if not book.known(measurer.place(name, count), measurer.options(name))
        ]
        self._book, self._progress = book, stage.ground.progress
        self._total = len(names) * len(place.counts)
        self._done = self._total - len(self.todo)
        self._label = f"{stage.ground.suite.name}: {stage.kind}, seed {stage.ground.seed}"
        self._tell()

    def add(self, row: Row) -> None:
        """Write one of them."""
        self._book.add(row)
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        self._progress(self._label, self._done, self._total)


def _one_by_one(
    book: Book, stages: Iterator[tuple[_Place, Stage, Scorer]], names: Sequence[str]
) -> None:
    for place, stage, scorer in stages:
        measurer = Measurer(stage, scorer)
        missing = _Missing(book, measurer, place, names)
        for name, count in missing.todo:
            missing.add(measurer.row(name, count))


def _together(
    book: Book, stages: Iterator[tuple[_Place, Stage, Scorer]], names: Sequence[str], workers: int
) -> None:
    """Measure in several processes; here stages are made ready one by one, and rows written."""
    import torch

    missing: dict[tuple[str, str, int], _Missing] = {}

    def jobs() -> Iterator[Job]:
        for place, stage, scorer in stages:
            found = _Missing(book, Measurer(stage, scorer), place, names)
            missing[stage.ground.suite.name, place.kind, place.seed] = found
            _collect(stage, sorted({name for name, _ in found.todo}))
            del stage, scorer  # the processes open their own
            for name, count in found.todo:
                yield Job(place.suite, place.kind, place.seed, place.counts[-1], count, name)

    measure_together(
        jobs(),
        workers,
        lambda row: missing[row.suite, row.experts, row.seed].add(row),
        threads=max(1, torch.get_num_threads() // workers),
    )


def _stages(
    suites: Sequence[str | Path] | None, wanted: Wanted, progress: Progress
) -> Iterator[tuple[_Place, Stage, Scorer]]:
    loaded = [(str(each), load_suite(each)) for each in (suites or suite_names())]
    plans = [(name, suite, *wanted.of(suite)) for name, suite in loaded]  # checked before one is run
    for name, suite, seeds, kinds in plans:
        for seed, counts in seeds.items():
            ground = lay_ground(suite, seed, progress=progress)
            scorer = Scorer(ground.encoder, ground.tasks, ground.heads, suite.evaluation)
            for kind in kinds:
                yield _Place(name, kind, seed, counts), set_stage(ground, kind, counts[-1]), scorer


def _entry(stage: Stage) -> SuiteEntry:
    ground: Ground = stage.ground
    seeded = Seeded(
        data={data.task.name: data.digest for data in ground.tasks},
        experts={stage.kind: {e.name: e.checkpoint.digest() for e in stage.stored.experts}},
    )
    commit = commit_of_code()
    lock = Lock(
        suite=ground.suite.digest,
        code=CODE_VERSION,
        base=ground.encoder.digest(),
        versions=versions(),
        machine=machine(),
        commits=[commit] if commit else [],
        seeds={str(ground.seed): seeded},
    )
    return SuiteEntry(title=ground.suite.title, tasks=list(ground.names), lock=lock)


def machine() -> str:
    """Return what rows are measured on, for readers of their seconds."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{platform.system()} {platform.machine()}, {model}, {os.cpu_count()} processors"


def commit_of_code() -> str | None:
    """Return the commit of the checkout that this file lies in, with ``+`` if it holds changes."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


__all__ = ["CODE_VERSION", "OUTPUT", "Row", "Trained", "Wanted", "claims", "train"]
