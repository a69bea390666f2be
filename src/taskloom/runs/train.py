"""``taskloom.train``: fine-tune one expert of a base on one task."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import TrainedExpert, train_expert
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.desk import open_desk
from taskloom.runs.features import Reader
from taskloom.runs.plan import Limits
from taskloom.runs.workspace import numeric_versions
from taskloom.store.atomic import atomic_directory
from taskloom.store.cache import cache_root


def train(
    task: str,
    base: str,
    *,
    output: str | Path,
    method: str = "full",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> TrainedExpert:
    """Train one expert: its head on frozen base features first, then the encoder under that head.

    Trains in the cache, where an interrupted training is taken up again and a finished one is found,
    also by a plan that needs the same expert; then copies it to ``output``, whole or not at all.

    Parameters
    ----------
    task
        Registered task, or path of an annotation.
    base
        Directory or hub id.
    output
        Directory to make; must not exist, or be empty.
    method
        Registered training method.
    options
        Other options of `TrainOptions`.
    seed
        Of the subsample, the head and the training.
    limits
        Most examples of each split; the plan's defaults if None.

    Returns
    -------
    TrainedExpert
        With ``directory`` set to ``output``.

    Raises
    ------
    PlanError, DataError, CheckpointError, SourceUnreachable, NumericalError
        A name or option that is wrong, data or weights that do not fit.
    OutputError
        ``output`` exists, or cannot be written.
    """
    given = dict(options or {})
    for option, value in (("method", method), ("seed", seed)):
        if given.setdefault(option, value) != value:
            message = f"training: {option} is {value!r} and, among the options, {given[option]!r}"
            raise PlanError(message, hint="Say it once")
    checked = TrainOptions.parse(given)
    get("train", checked.method)
    with atomic_directory(output) as folder:
        desk = open_desk(base, seed=seed, progress=progress)
        data = desk.load(task, limits or Limits())
        trained = tune(desk.reader, desk.head(data), data, checked)
        shutil.copytree(trained.directory, folder, dirs_exist_ok=True)
    return replace(trained, directory=Path(output))


def tune(
    reader: Reader,
    head: Head,
    data: TaskData,
    options: TrainOptions,
    *,
    start: Path | None = None,
) -> TrainedExpert:
    """Train an expert of the reader's base in the cache, or find it there.

    ``start`` is a model of that base that training goes on from.
    """
    if options.max_length is None:
        options = options.model_copy(update={"max_length": reader.options.max_length})
    used = [need for need in get("train", options.method).needs if need == "peft"]
    return train_expert(
        start or reader.encoder.directory,
        head,
        (data.train.inputs, data.train.labels),
        (data.validation.inputs, data.validation.labels),
        options,
        cache=cache_root() / "experts",
        key_extra={"task": data.digest, "versions": numeric_versions(*used)},
        progress=reader.progress,
    )
