"""What fits of recipes and of small modules open alike: tasks, base, experts, what may be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.task import get_task
from taskloom.models.head import Head, head_names
from taskloom.progress import Progress
from taskloom.runs.desk import Sources, by_name_or_order, open_desk
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.seen import Deal, Seen, deal
from taskloom.runs.trace import check_suffixes
from taskloom.store.atomic import refuse_existing
from taskloom.store.pool import Pool, open_pool

Split = Literal["train", "test"]
#: how the guard calls the result of a fit
FITTED = "fitted"


@dataclass(frozen=True)
class Outputs:
    """What a fit is to write.

    Attributes
    ----------
    model
        Directory for the model or the module.
    trace, picture
        ``.json`` or ``.csv`` of every step; ``.png`` or ``.svg`` of the loss.
    overwrite
        Replace an existing model.
    x, y
        Tasks that a search's front is drawn over in the picture.
    """

    model: str | Path | None = None
    trace: str | Path | None = None
    picture: str | Path | None = None
    overwrite: bool = False
    x: str | None = None
    y: str | None = None

    def check(self) -> None:
        """Refuse what could not be written, before anything is fitted.

        Raises
        ------
        PlanError, OutputError
            Another suffix than is known; a model that exists; axes without a picture.
        """
        if (self.x or self.y) and self.picture is None:
            raise PlanError(
                "x and y are axes of a picture, and none is asked for", hint="Name a picture too"
            )
        check_suffixes(self.picture, self.trace)
        if self.model is not None:
            refuse_existing(Path(self.model), overwrite=self.overwrite)


@dataclass(frozen=True, eq=False)
class Opened:
    """Names of the tasks, the pool, and what may be seen and is judged."""

    tasks: tuple[str, ...]
    pool: Pool
    dealt: Deal

    @property
    def final(self) -> Seen:
        """What the result is fitted on."""
        return self.dealt.final


def task_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the names of tasks, given by name or as paths of annotations.

    Raises
    ------
    UnknownName, PlanError
        No such task, none at all, or one twice.
    """
    names = tuple(get_task(task).name for task in tasks)
    if not names:
        raise PlanError("a fit needs one task or more, and there is none", hint="Name a task")
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once")
    return names


def open_fit(
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    outputs: Outputs,
    taken: Sequence[str] = (),
    examples: int,
    labels: int | Mapping[str, int] | None,
    split: Split,
    transductive: bool,
    limits: Limits | Mapping[str, Limits] | None,
    evaluation: Evaluation | None = None,
    seed: int,
    progress: Progress,
) -> Opened:
    """Open what a fit works on; everything that can be refused unread is refused first.

    Parameters
    ----------
    tasks, base, experts, examples, labels, split, transductive, limits, evaluation, seed
        As ``taskloom.fit``.
    outputs
        What is to be written.
    taken
        Names of other models, which no expert may have.

    Raises
    ------
    PlanError, UnknownName, DataError, CheckpointError, OutputError
        As ``taskloom.fit``.
    """
    names = task_names(tasks)
    outputs.check()
    if (split == "test") != transductive:
        raise PlanError(
            "a transductive fit, on the test split, has seen what it will be scored on, and both must "
            "be asked for",
            hint="Give split='test' and transductive=True together, or neither",
        )
    desk = open_desk(base, seed=seed, progress=progress, options=evaluation)
    sources, said = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=said)
    for name in taken:
        if name in pool.names:
            raise PlanError(
                f"an expert is called {name!r}, which means another model here", hint="Rename it"
            )
    loaded = [
        desk.load(
            task,
            (limits.get(task) if isinstance(limits, Mapping) else limits) or Limits(),
            labels=labels.get(task) if isinstance(labels, Mapping) else labels,
        )
        for task in tasks
    ]
    for data in loaded:
        _check_heads(pool, data)
    unlabelled = (
        {data.task.name: data.test.open("a transductive fit").inputs for data in loaded}
        if transductive
        else None
    )
    dealt = deal(desk, pool, loaded, examples=examples, unlabelled=unlabelled)
    return Opened(names, pool, dealt)


def _check_heads(pool: Pool, data: TaskData) -> None:
    """Refuse a task whose labels are not those of the head that an expert of it brings."""
    task = data.task
    for expert in pool.experts:
        path = getattr(expert.checkpoint, "path", None)
        if path is None or not Path(path).is_dir() or task.name not in head_names(Path(path)):
            continue
        known = Head.load(Path(path), task.name).labels
        if tuple(known) != tuple(task.label_names):
            raise DataError(
                f"task {task.name!r} has the labels {_listed(task.label_names)}, but the head of the "
                f"expert {expert.name!r} for it knows {_listed(known)}",
                hint="Use the annotation that the expert was trained with",
            )


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:6])
    return f"{shown}, ... ({len(labels)})" if len(labels) > 6 else shown
