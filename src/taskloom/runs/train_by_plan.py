"""``taskloom.train_by_plan``: train on several sources by their weights, and go on with the target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskloom.evaluation.data import TaskData
from taskloom.learn.adaptation import write_provenance
from taskloom.learn.mixed import Mixture, Part, train_mixture
from taskloom.learn.train import TrainedExpert
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs.candidates import Candidate, read_all
from taskloom.runs.desk import Desk, open_desk
from taskloom.runs.heads import head_for
from taskloom.runs.train import tune
from taskloom.runs.training_plan import TrainingPlan, load_training_plan
from taskloom.runs.workspace import numeric_versions
from taskloom.store.atomic import atomic_directory
from taskloom.store.cache import cache_root
from taskloom.store.open import open_checkpoint


@dataclass(frozen=True)
class TrainedByPlan:
    """What a plan of training has made.

    Attributes
    ----------
    target
        Name of the task.
    weights, steps
        Source -> weight in the plan, and steps that were taken on it.
    first
        Mean validation accuracy over the sources, of the weights that went on to the target.
    expert
        The model of the target. Its ``before`` is the validation of the weights that training on the
        target began with, under the head fitted on their features.
    """

    target: str
    weights: Mapping[str, float]
    steps: Mapping[str, int]
    first: float
    expert: TrainedExpert


def train_by_plan(
    plan: str | Path | Mapping[str, Any] | TrainingPlan,
    *,
    output: str | Path,
    progress: Progress = silent,
) -> TrainedByPlan:
    """Fine-tune a base on several sources together, and what comes of it on the target.

    Every source has a head of its own, fitted on the base's frozen features; steps are shared out by
    the weights (`taskloom.learn.mixed`), and the weights with the best mean validation over the sources
    go on. The target's head is fitted on their frozen features, and then kept, as everywhere. Both
    trainings are cached and taken up where they stopped; the target's test split stays sealed.

    Parameters
    ----------
    plan
        Path of a YAML file, its content, or a plan that was read.
    output
        Directory to make; must not exist, or be empty. A model directory with the target's head, and
        ``taskloom.json`` that tells both trainings.

    Raises
    ------
    PlanError, UnknownName
        See `taskloom.runs.training_plan.load_training_plan`.
    DataError, CheckpointError, SourceUnreachable, NumericalError
        Data or weights that do not fit.
    OutputError
        ``output`` exists, or cannot be written.
    """
    checked = load_training_plan(plan)
    with atomic_directory(output) as folder:
        desk = open_desk(checked.base, seed=checked.seed, progress=progress)
        parts = [_part(desk, checked, number) for number in range(len(checked.sources))]
        data = desk.load(checked.target, checked.limits, labels=checked.labels)
        mixture = _on_sources(desk, checked, parts)
        head = _head_on(desk, mixture, data)
        trained = tune(desk.reader, head, data, checked.options_then(), start=mixture.directory)
        shutil.copytree(trained.directory, folder, dirs_exist_ok=True)
        _tell_both(folder, mixture, checked, parts)
    return TrainedByPlan(
        data.task.name,
        {part.head.task: part.weight for part in parts},
        dict(mixture.steps),
        mixture.best.accuracy,
        replace(trained, directory=Path(output)),
    )


def _part(desk: Desk, plan: TrainingPlan, number: int) -> Part:
    item = plan.sources[number]
    data = desk.load(item.task, item.limits or plan.limits)
    return Part(
        desk.head(data),
        (data.train.inputs, data.train.labels),
        (data.validation.inputs, data.validation.labels),
        weight=item.weight,
    )


def _on_sources(desk: Desk, plan: TrainingPlan, parts: list[Part]) -> Mixture:
    options = plan.options_first(sum(len(part.train[1]) for part in parts))
    if options.max_length is None:
        options = options.model_copy(update={"max_length": desk.reader.options.max_length})
    return train_mixture(
        desk.reader.encoder.directory,
        parts,
        options,
        cache=cache_root() / "experts",
        key_extra={"versions": numeric_versions()},
        progress=desk.reader.progress,
    )


def _head_on(desk: Desk, mixture: Mixture, data: TaskData) -> Head:
    """Fit the target's head on the frozen features of what was trained on the sources."""
    found = open_checkpoint(mixture.directory)
    start = Candidate("sources", "expert", "Sources", found.digest(), partial(read_all, found))
    features = desk.reader.read([start], [data], "train")[start.name, data.task.name]
    return head_for(desk.reader.workspace, data.task, features, data.train.labels, seed=desk.seed)


def _tell_both(folder: Path, mixture: Mixture, plan: TrainingPlan, parts: list[Part]) -> None:
    """Add to the table of the target's training what was trained on before."""
    table = json.loads((folder / "taskloom.json").read_text(encoding="utf-8"))
    before = json.loads((mixture.directory / "taskloom.json").read_text(encoding="utf-8"))
    first = {
        "key": before["key"],
        "base": {"id": plan.base, "digest": before["inputs"]["encoder"]},
        "weights": {part.head.task: part.weight for part in parts},
        "steps": dict(mixture.steps),
        "validation": before["validation"],
        "seconds": before["seconds"],
    }
    write_provenance(folder, {**table, "first": first})
