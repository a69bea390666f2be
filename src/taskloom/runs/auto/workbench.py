"""What members are made and judged with: encoder, pool, examples, heads, and what was fitted before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom import __version__
from taskloom.learn.head import ABSENT_BIAS
from taskloom.learn.probe import Batch
from taskloom.learn.probe import Examples as Batches
from taskloom.learn.problem import Problem
from taskloom.models.head import Head
from taskloom.runs.auto.ground import Ground, Rows
from taskloom.runs.auto.readings import Readings
from taskloom.runs.candidates import Candidate, pool_digest
from taskloom.runs.desk import Desk
from taskloom.runs.heads import head_for
from taskloom.runs.seen import Seen, Shots
from taskloom.runs.trying import Merges
from taskloom.runs.workspace import Workspace
from taskloom.store.cache import canonical_digest
from taskloom.store.pool import Pool

#: one row in so many is for early stopping
_STOPS = 5
#: examples per forward pass of a fit
BATCH = 16


@dataclass(frozen=True, eq=False)
class Workbench:
    """Everything that outlives a member.

    Attributes
    ----------
    desk
        Its stash is that of the run.
    pool
        Base and experts.
    ground
        Which examples do what.
    tune
        Options of fine-tunes that the caller gave.
    paid
        Fits and trainings whose price the ledger holds; found again, they cost nothing.
    """

    desk: Desk
    pool: Pool
    ground: Ground
    tune: dict[str, Any]
    paid: set[str] = field(default_factory=set)

    @cached_property
    def readings(self) -> Readings:
        """Features by model and example."""
        return Readings(self.desk.reader, self.ground.examples)

    @cached_property
    def digest(self) -> str:
        """Identifies base, experts, encoder, target and the version of what works on them.

        The versions of packages that compute numbers are in every key of the workspace already.
        """
        encoder = self.desk.reader.encoder.digest()
        head = None if self.ground.head is None else self.ground.head.digest()
        options = self.desk.reader.options.model_dump(mode="json")
        given = [self.ground.data.digest, self.ground.regime, head, options, self.ground.seed, self.tune]
        return canonical_digest([__version__, pool_digest(self.pool), encoder, given])

    @property
    def workspace(self) -> Workspace:
        """Where things are kept."""
        return self.desk.reader.workspace

    def head(self, candidate: Candidate, rows: Rows) -> Head:
        """Return the target's head on a model's features: fitted to rows, or the one that was given.

        Rows of one class, as a fold leaves where another has a single label, get a head that says it.
        """
        if self.ground.head is not None:
            return self.ground.head
        present = np.unique(self.ground.examples.labels[rows])
        if len(present) == 1:
            return _always(self, int(present[0]))
        return head_for(
            self.workspace,
            self.ground.data.task,
            self.readings.features(candidate, rows),
            self.ground.examples.labels[rows],
            seed=self.ground.seed,
        )


@dataclass(frozen=True, eq=False)
class Lot:
    """What a member may see of the target.

    Attributes
    ----------
    bench
        The rest.
    rows
        Of the target's examples.
    share
        Of what there is for fitting; fits take that share of their steps.
    """

    bench: Workbench
    rows: Rows
    share: float

    @cached_property
    def digest(self) -> str:
        """Identifies what is seen."""
        return canonical_digest([self.bench.digest, self.rows.tolist(), self.share])

    @property
    def stops(self) -> Rows:
        """Rows for early stopping: the last of every five; all, where that leaves too few to fit on."""
        held = self.rows[_STOPS - 1 :: _STOPS]
        return held if self._apart(held) else self.rows

    @property
    def learns(self) -> Rows:
        """Rows to fit on: the others."""
        held = self.rows[_STOPS - 1 :: _STOPS]
        return np.setdiff1d(self.rows, held) if self._apart(held) else self.rows

    def _apart(self, held: Rows) -> bool:
        """Tell whether rows can be spared: 8 of them, and the others have all the classes."""
        labels: NDArray[np.int64] = self.bench.ground.examples.labels
        rest = np.setdiff1d(self.rows, held)
        return len(held) >= 8 and set(labels[held]) <= set(labels[rest])

    def head(self, candidate: Candidate) -> Head:
        """Return the head that fits under a model see."""
        return self.bench.head(candidate, self.learns)

    def problem(self, pool: Pool, key: Any) -> Problem:
        """Return the lot as a problem for the experts of ``pool``; without labels where there are none.

        Parameters
        ----------
        key
            What tells the journal of a search from others.
        """
        bench = self.bench
        examples, task = bench.ground.examples, bench.ground.data.task
        shots = Shots(
            task, examples.take(self.learns), examples.take(self.stops), self.head(bench.desk.base)
        )
        on = Seen(bench.desk, pool, {task.name: shots}).problem({}, batch_size=BATCH)
        if bench.ground.regime == "unlabeled":
            inputs = {name: _without_labels(batches) for name, batches in on.batches.items()}
            on = replace(on, batches=inputs, validation={})
        journal = bench.workspace.entry("searches", [self.digest, key], ".jsonl")
        return replace(on, merge=Merges(pool), journal=journal)


def _always(bench: Workbench, label: int) -> Head:
    """Return a head that gives everything one class."""
    task = bench.ground.data.task
    names, dim = tuple(task.label_names), bench.desk.reader.encoder.dim
    bias = np.full(len(names), ABSENT_BIAS, dtype=np.float32)
    bias[label] = 0.0
    return Head(np.zeros((len(names), dim), dtype=np.float32), bias, names, task.name)


def _without_labels(batches: Batches) -> Batches:
    def make() -> list[Batch]:
        return [(inputs, None) for inputs, _ in batches]

    return Batches(make, batches.count)
