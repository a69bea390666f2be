"""Load a task: read its source, clean, split, take duplicates out, subsample, check, seal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from taskloom import registry
from taskloom.errors import DataError, PlanError
from taskloom.evaluation.data import Examples, SealedSplit, TaskData
from taskloom.evaluation.examples import build_examples, content_keys
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.evaluation.rules import apply_rules
from taskloom.evaluation.sampling import stratified
from taskloom.evaluation.splitting import split_examples
from taskloom.evaluation.task import Task, get_task
from taskloom.progress import Progress, silent


def load_task(
    name_or_task: str | Path | Task,
    *,
    seed: int = 0,
    max_train: int | None = None,
    max_validation: int | None = None,
    max_test: int | None = None,
    n_labels: int | None = None,
    progress: Progress = silent,
) -> TaskData:
    """Load a task's examples.

    The split depends on the annotation alone. ``seed`` chooses the subsample when there is more than
    asked for; class shares are kept, and a larger sample contains a smaller one of the same seed.

    Parameters
    ----------
    name_or_task
        Name of a built-in task, path of an annotation, or a task.
    max_train, max_validation, max_test
        Most examples of each split; None for all.
    n_labels
        Few-shot: train and validation together have this many labels, a quarter of them validation.

    Raises
    ------
    DataError
        The data is missing, malformed, empty, of one class, or disagrees with the annotation.
    SourceUnreachable
        It must be downloaded and cannot be.
    """
    task = name_or_task if isinstance(name_or_task, Task) else get_task(name_or_task)
    if n_labels is not None and (max_train is not None or max_validation is not None):
        raise PlanError(
            f"task {task.name!r}: n_labels and max_train or max_validation exclude each other"
        )
    rows = apply_rules(task.clean, read_source(task, progress=progress))
    examples = build_examples(task, rows)
    parts = split_examples(task, rows, examples)
    train, validation, test = (
        examples.take(part) for part in (parts.train, parts.validation, parts.test)
    )
    _check(task, train, validation, test)
    train_size, validation_size = _sizes(task, n_labels, max_train, max_validation)
    train = _sample(task, train, train_size, seed, every_class=True)
    validation = _sample(task, validation, validation_size, seed)
    test = _sample(task, test, max_test, seed)
    return TaskData(
        task=task,
        train=train,
        validation=validation,
        test=SealedSplit(task.name, test),
        digest=_digest(task, train, validation, test),
        removed_duplicates=parts.removed_duplicates,
        removed_repeats=parts.removed_repeats,
    )


def read_source(task: Task, *, progress: Progress = silent) -> list[Row]:
    """Return the rows of a task's source, before any cleaning."""
    options = {key: value for key, value in task.source.items() if key != "kind"}
    entry = registry.get("source", task.source["kind"])
    context = SourceContext(folder=task.folder, task=task.name, progress=progress)
    rows: list[Row] = entry.function(context, **entry.validate(options))
    if not rows:
        raise DataError(f"task {task.name!r}: the source holds no rows", hint="Check 'source'")
    return rows


def _sizes(
    task: Task, n_labels: int | None, max_train: int | None, max_validation: int | None
) -> tuple[int | None, int | None]:
    if n_labels is None:
        return max_train, max_validation
    least = len(task.label_names) * 4 // 3 + 1
    if n_labels < least:
        raise DataError(
            f"task {task.name!r}: {n_labels} labels are too few for {len(task.label_names)} classes",
            hint=f"Give at least {least}",
        )
    validation = n_labels // 4
    return n_labels - validation, validation


def _check(task: Task, train: Examples, validation: Examples, test: Examples) -> None:
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        if len(part) == 0:
            raise DataError(
                f"task {task.name!r}: the {name} split is empty",
                hint="Give more data, or a larger share under 'split'",
            )
    counts = train.counts(len(task.label_names))
    names = [task.label_names[i] for i, count in enumerate(counts) if count]
    if len(names) == 1:
        raise DataError(
            f"task {task.name!r}: all {len(train)} train examples are of one class, {names[0]!r}",
            hint="A classifier needs examples of at least two",
        )
    missing = [task.label_names[i] for i, count in enumerate(counts) if not count]
    if missing:
        raise DataError(
            f"task {task.name!r}: no train example has the declared label {missing[0]!r}",
            hint="Take it out of 'labels', or give examples of it",
        )


def _sample(
    task: Task, part: Examples, most: int | None, seed: int, *, every_class: bool = False
) -> Examples:
    try:
        return stratified(part, content_keys(part), most, seed=seed, every_class=every_class)
    except DataError as error:
        raise DataError(f"task {task.name!r}: {error}") from None


def _digest(task: Task, *parts: Examples) -> str:
    content: dict[str, Any] = {
        "annotation": task.model_dump(mode="json"),
        "splits": [part.digest() for part in parts],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
