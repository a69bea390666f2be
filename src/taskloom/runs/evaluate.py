"""``taskloom.evaluate``: score models of one base on the test split of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.errors import CheckpointError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.score import Score, score
from taskloom.evaluation.task import get_task
from taskloom.models.head import Head, head_names
from taskloom.progress import Progress, silent
from taskloom.runs.candidates import Candidate, singles
from taskloom.runs.desk import Desk, Sources, by_name_or_order, open_desk
from taskloom.runs.plan import Limits
from taskloom.store.pool import Pool, open_pool


def evaluate(
    models: Sources,
    tasks: Sequence[str],
    *,
    base: str,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Score]:
    """Score the base and every model on every task, with n and a 95 % interval.

    A model that carries a head for the task is scored with it; otherwise with the head that is fitted
    on the base's features, so that models of one base are comparable.

    Parameters
    ----------
    models
        Directories, hub ids or adapters of one base, in order or by name.
    tasks
        Registered tasks, or paths of annotations.
    base
        Directory or hub id the models were tuned from.
    limits
        Most examples of each split; the plan's defaults if None.

    Returns
    -------
    list of Score
        Base first, then the models in order; within a model the tasks in order.
    """
    desk = open_desk(base, seed=seed, progress=progress)
    sources, names = by_name_or_order(models)
    pool = open_pool(desk.reader.encoder.directory, sources, names=names)
    candidates = [desk.base, *singles(pool)[1:]]
    names_of = [get_task(task).name for task in tasks]
    for name in names_of:
        if names_of.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once")
    loaded = [desk.load(task, limits or Limits()) for task in tasks]
    heads = _heads(desk, pool, candidates, loaded)
    features = desk.reader.read(candidates, loaded, "test")
    found = []
    for candidate in candidates:
        for data in loaded:
            name = data.task.name
            found.append(
                score(
                    desk.reader.test_labels(data),
                    heads[candidate.name, name].predict(features[candidate.name, name]),
                    metric=data.task.metric,
                    seed=seed,
                    model=candidate.name.removeprefix("expert:"),
                    task=name,
                )
            )
    return found


def _heads(
    desk: Desk, pool: Pool, candidates: Sequence[Candidate], tasks: Sequence[TaskData]
) -> dict[tuple[str, str], Head]:
    found: dict[tuple[str, str], Head] = {}
    directories = {f"expert:{e.name}": getattr(e.checkpoint, "path", None) for e in pool.experts}
    for data in tasks:
        name, shared = data.task.name, None
        for candidate in candidates:
            directory = directories.get(candidate.name)
            if directory is not None and name in head_names(directory):
                own = Head.load(directory, name)
                if own.labels != data.task.label_names:
                    raise CheckpointError(
                        f"the head for {name!r} in {directory} has the classes {', '.join(own.labels)}, "
                        f"the task has {', '.join(data.task.label_names)}",
                        hint="Remove that head, or use the annotation it was fitted with",
                    )
                found[candidate.name, name] = own
            else:
                shared = shared or desk.head(data)
                found[candidate.name, name] = shared
    return found
