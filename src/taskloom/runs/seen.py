"""What a fit may see, and what it is judged on: validation, or the folds of a few labels.

With labels enough a fit sees training examples, and is judged on the validation split. With few the
two are put together and dealt into folds: everything that looks at a label, the heads included, is
fitted anew for every fold on the labels outside it, and asked about the labels inside it only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples, Inputs, TaskData
from taskloom.evaluation.sampling import allocate
from taskloom.evaluation.task import Task
from taskloom.lazy import Tensor
from taskloom.learn.batches import BatchPlan
from taskloom.learn.data import check_split
from taskloom.learn.probe import Batch, Probe
from taskloom.learn.probe import Examples as Batches
from taskloom.learn.problem import TEST, Problem
from taskloom.models.head import Head
from taskloom.runs.desk import Desk
from taskloom.runs.heads import fold_of, head_for
from taskloom.store.cache import cache_root
from taskloom.store.pool import Pool

Labels = NDArray[np.int64]
#: (task, inputs) -> class numbers (N,)
Model = Callable[[str, Inputs], Labels]
#: labels a class, on average, from which on a validation split judges
FEW = 20
FOLDS = 5
#: fewest examples that are set aside for checks
_CHECKED = 8


@dataclass(frozen=True, eq=False)
class Shots:
    """What may be seen of one task.

    Attributes
    ----------
    task
        Its annotation.
    train
        Labelled examples to fit on.
    check
        For early stopping and the like: training examples that are not among ``train``, or those of
        ``train`` where there are no others. Never what is judged.
    head
        Fitted on the base's features of labels that may be seen.
    inputs
        Test inputs, of a transductive fit; else None.
    """

    task: Task
    train: Examples
    check: Examples
    head: Head
    inputs: Inputs | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What a fit may see of all its tasks.

    Attributes
    ----------
    desk, pool
        Encoder and experts.
    tasks
        By name.
    number
        Of the fold that is held out, from 1; 0 where nothing that is judged was taken out.
    """

    desk: Desk
    pool: Pool
    tasks: Mapping[str, Shots]
    number: int = 0

    def problem(self, own: Mapping[str, str] | None = None, *, batch_size: int = 16) -> Problem:
        """Return these examples as a problem.

        A fit of it may build merged weights in the encoder's own memory, and keeps its state in the
        cache until it ends.

        Parameters
        ----------
        own
            Task -> the expert that was trained on it; by default the expert of the task's name.
        batch_size
            Examples of a task per forward pass.

        Raises
        ------
        PlanError, CheckpointError, DataError
            As `Problem`; labels that the head does not know.
        """
        assert self.pool.base is not None
        encoder, digest = self.desk.reader.encoder, self.pool.base.digest()
        probes, batches, checks = {}, {}, {}
        for name, shots in self.tasks.items():
            probes[name] = Probe.of_encoder(encoder, shots.head, digest=digest)
            if shots.inputs is None:
                labels = check_split((shots.train.inputs, shots.train.labels), shots.head, split="train")
                batches[name] = self._batches(shots.train.inputs, labels, batch_size)
            else:
                batches[name] = self._batches(shots.inputs, None, batch_size)
            known = check_split((shots.check.inputs, shots.check.labels), shots.head, split="check")
            checks[name] = self._batches(shots.check.inputs, known, batch_size)
        transductive = any(shots.inputs is not None for shots in self.tasks.values())
        return Problem(
            self.pool.base,
            {expert.name: expert.checkpoint for expert in self.pool.experts},
            probes,
            batches,
            checks,
            {t: t for t in probes if t in self.pool.names} if own is None else dict(own),
            self.desk.seed,
            self.desk.reader.progress,
            TEST if transductive else "train",
            transductive,
            unfinished=cache_root() / "fits",
            borrow=True,
        )

    def _batches(self, inputs: Inputs, labels: Labels | None, size: int) -> Batches:
        """Batch examples shuffled, those of like length together."""
        encoded = self.desk.reader.encoder.encode(inputs)
        plan = BatchPlan(encoded.lengths, size, seed=self.desk.seed)

        def make() -> Iterator[Batch]:
            for step in range(plan.per_epoch):
                rows = plan.at(step)
                yield encoded.batch(rows), None if labels is None else torch.from_numpy(labels[rows])

        return Batches(make, len(encoded.lengths))

    def in_order(self, inputs: Inputs, *, size: int = 64) -> tuple[Batches, NDArray[np.int64]]:
        """Return batches of inputs by length, and which input each row of them is, ``(N,)``."""
        encoded = self.desk.reader.encoder.encode(inputs)
        order = np.argsort(-encoded.lengths, kind="stable")

        def make() -> Iterator[Batch]:
            for first in range(0, len(order), size):
                yield encoded.batch(order[first : first + size]), None

        return Batches(make, len(order)), order

    def model(self, weights: Mapping[str, Tensor]) -> Model:
        """Return weights, by stored name, as a model of these tasks under their heads."""
        reader = self.desk.reader

        def predict(task: str, inputs: Inputs) -> Labels:
            features = reader.encoder.features(
                inputs,
                weights=weights,
                batch_size=reader.options.batch_size,
                precision=reader.options.precision,
            )
            return self.tasks[task].head.predict(features)

        return predict


@dataclass(frozen=True, eq=False)
class Held:
    """What is judged at a time, and what may be seen for it."""

    seen: Seen
    examples: Mapping[str, Examples]


@dataclass(frozen=True, eq=False)
class Deal:
    """All labels that may be fitted on, and what is judged.

    Attributes
    ----------
    final
        What a composition that is handed over is fitted on.
    held
        The validation split, with ``final`` to see for it; or every fold.
    """

    final: Seen
    held: tuple[Held, ...]

    @cached_property
    def folded(self) -> bool:
        """Whether folds of few labels are judged."""
        return self.held[0].seen.number > 0

    @property
    def folds(self) -> int:
        """How many folds there are; 0 for a validation split."""
        return len(self.held) if self.folded else 0

    def caution(self, tasks: Sequence[str]) -> str:
        """Return what flatters experts of tasks that are judged on folds; empty where nothing does.

        Folds of few labels hold training examples, and an expert of the task may have been trained on
        those very ones. A validation split was trained on by nobody.

        Parameters
        ----------
        tasks
            Those that are judged.
        """
        experts = self.final.pool.experts
        known = {e.name for e in experts} | {e.task for e in experts}
        own = [task for task in tasks if task in known]
        if not own or not self.folded:
            return ""
        return (
            f"the experts of {', '.join(own)} may have been trained on labels that are judged here, "
            "which flatters them and whatever is made of them against the fine-tune"
        )


def few_shot(tasks: Sequence[TaskData]) -> bool:
    """Tell whether a task has fewer than `FEW` labels a class on average, both splits together."""
    return any(
        len(data.train) + len(data.validation) < FEW * len(np.unique(_together(data).labels))
        for data in tasks
    )


def deal(
    desk: Desk,
    pool: Pool,
    tasks: Sequence[TaskData],
    *,
    examples: int = 256,
    unlabelled: Mapping[str, Inputs] | None = None,
) -> Deal:
    """Say what may be seen and what is judged; test splits stay sealed.

    Parameters
    ----------
    desk, pool
        Encoder and experts.
    tasks
        Loaded.
    examples
        Most labels of a task that are fitted on, drawn by the desk's seed with the shares of the classes
        kept. Heads are fitted on all that may be seen.
    unlabelled
        Task -> test inputs that a transductive fit takes instead.

    Raises
    ------
    DataError
        Few labels, and one only of a class, so that no fold can be held out.
    """
    build = _Build(desk, pool, examples, unlabelled or {})
    if not few_shot(tasks):
        seen = build.seen({data.task.name: (data, None) for data in tasks}, 0)
        return Deal(seen, (Held(seen, {data.task.name: data.validation for data in tasks}),))
    for data in tasks:
        _check_folds(data)
    together = {data.task.name: _together(data) for data in tasks}
    folds = min(FOLDS, *(len(each) for each in together.values()))
    fold = {name: fold_of(each.labels, folds, desk.seed) for name, each in together.items()}
    final = build.seen({d.task.name: (d, np.ones(len(fold[d.task.name]), bool)) for d in tasks}, 0)
    held = []
    for number in range(folds):
        rows = {data.task.name: (data, fold[data.task.name] != number) for data in tasks}
        inside = {n: each.take(np.flatnonzero(fold[n] == number)) for n, each in together.items()}
        held.append(Held(build.seen(rows, number + 1), inside))
    return Deal(final, tuple(held))


@dataclass(frozen=True)
class _Build:
    desk: Desk
    pool: Pool
    most: int
    unlabelled: Mapping[str, Inputs]

    def seen(self, tasks: Mapping[str, tuple[TaskData, NDArray[np.bool_] | None]], number: int) -> Seen:
        """Return the training splits, or the rows that are True of both splits together."""
        found = {name: self._shots(data, rows) for name, (data, rows) in tasks.items()}
        return Seen(self.desk, self.pool, found, number)

    def _shots(self, data: TaskData, rows: NDArray[np.bool_] | None) -> Shots:
        task = data.task
        if rows is None:
            known, head = data.train, self.desk.head(data)
        else:
            together = _together(data)
            known = together.take(np.flatnonzero(rows))
            head = self._head(data, rows, known)
        fit = drawn(known.labels, self.most, self.desk.seed, task=task.name)
        train, rest = known.take(np.flatnonzero(fit)), known.take(np.flatnonzero(~fit))
        if len(rest) < max(_CHECKED, 2 * len(np.unique(known.labels))):
            check = train
        else:
            part = drawn(rest.labels, min(len(rest), len(train)), self.desk.seed, task=task.name)
            check = rest.take(np.flatnonzero(part))
        return Shots(task, train, check, head, self.unlabelled.get(task.name))

    def _head(self, data: TaskData, rows: NDArray[np.bool_], known: Examples) -> Head:
        read = self.desk.reader.read_parts([self.desk.base], [data], ["train", "validation"])
        parts = [read["base", data.task.name, split] for split in ("train", "validation")]
        features = np.concatenate(parts)[rows]
        stash = self.desk.reader.workspace
        return head_for(stash, data.task, features, known.labels, seed=self.desk.seed)


def drawn(labels: Labels, most: int, seed: int, *, task: str) -> NDArray[np.bool_]:
    """Return which examples are drawn, ``(N,)``: every class keeps its share, and one at least.

    Raises
    ------
    DataError
        Fewer are to be drawn than there are classes.
    """
    if most >= len(labels):
        return np.ones(len(labels), dtype=bool)
    counts = np.bincount(labels)
    present = int((counts > 0).sum())
    if most < present:
        raise DataError(
            f"task {task!r}: {most} examples cannot have one of each of the {present} classes",
            hint=f"Fit on {present} examples or more",
        )
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(allocate(counts.tolist(), most, every_class=True)):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return chosen


def _together(data: TaskData) -> Examples:
    """Return both splits as one, training examples first."""
    return data.train.joined(data.validation)


def _check_folds(data: TaskData) -> None:
    counts = _together(data).counts(len(data.task.label_names))
    for name, count in zip(data.task.label_names, counts, strict=True):
        if count == 1:
            raise DataError(
                f"task {data.task.name!r}: the class {name!r} has 1 labelled example, and so few labels "
                "are judged by cross-validation, which needs 2 of every class",
                hint="Label another example of it, or give a validation split of more labels",
            )
