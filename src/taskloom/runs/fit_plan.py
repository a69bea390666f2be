"""``taskloom.fit_by_plan``: a fit of which a plan says everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.evaluation.task import get_task
from taskloom.learn.options import TrainOptions
from taskloom.progress import Progress, silent
from taskloom.runs.base import base_directory
from taskloom.runs.desk import open_desk
from taskloom.runs.fit import FitReport
from taskloom.runs.fit_module import fit_by_name
from taskloom.runs.opening import Outputs
from taskloom.runs.plan import Plan, PlannedFit, load_fit_plan
from taskloom.runs.train import tune


def fit_by_plan(
    plan: str | Path | Mapping[str, Any],
    *,
    output: str | Path | None = None,
    trace: str | Path | None = None,
    picture: str | Path | None = None,
    x: str | None = None,
    y: str | None = None,
    journal: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> FitReport:
    """Fit what a plan says under ``fit``: the numbers of a recipe, or a small module.

    Base, experts, limits, seed, guard and the steps of the fine-tune are the plan's; an expert that is
    not given is trained as ``taskloom.run`` trains it, or found in the cache. The rest is as
    ``taskloom.fit`` does it with the same arguments.

    Parameters
    ----------
    plan
        Path of a YAML file, or its content.
    output, trace, picture, x, y, journal, overwrite
        As ``taskloom.fit``.

    Raises
    ------
    PlanError, UnknownName
        See `taskloom.runs.plan.load_fit_plan`.
    FitStopped, ModuleStopped, DataError, CheckpointError, NumericalError, OutputError
        As ``taskloom.fit``, and what training and fetching the base can raise.
    """
    checked = load_fit_plan(plan)
    asked = checked.fit
    assert asked is not None
    Outputs(output, trace, picture, overwrite, x, y).check()
    base = str(base_directory(checked, progress=progress))
    tasks = asked.tasks or [item.task for item in checked.pool]
    steps = checked.fine_tune.steps
    return fit_by_name(
        asked.method,
        tasks,
        base,
        _experts(checked, base, progress),
        merged=asked.merged,
        options=asked.options,
        output=output,
        trace=trace,
        picture=picture,
        x=x,
        y=y,
        journal=journal,
        examples=asked.examples,
        labels=_labels(checked, asked, tasks),
        batch_size=asked.batch_size,
        split="test" if asked.transductive else "train",
        transductive=asked.transductive,
        guard=checked.guard,
        tune={} if steps is None else {"steps": steps},
        tuned=checked.fine_tune.targets,
        overwrite=overwrite,
        limits=_limits(checked, tasks),
        evaluation=checked.evaluation,
        seed=checked.seed,
        progress=progress,
    )


def _experts(plan: Plan, base: str, progress: Progress) -> dict[str, str]:
    """Return task -> where its expert lies; train those that are not given, in the cache."""
    found = {get_task(item.task).name: item.expert or "" for item in plan.pool}
    if all(found.values()):
        return found
    desk = open_desk(base, seed=plan.seed, progress=progress, options=plan.evaluation)
    options = TrainOptions.parse({"seed": plan.seed, **plan.train})
    for item in plan.pool:
        if item.expert is None:
            data = desk.load(item.task, item.limits or plan.limits)
            trained = tune(desk.reader, desk.head(data), data, options)
            found[data.task.name] = str(trained.directory)
    return found


def _limits(plan: Plan, tasks: list[str]) -> dict[str, Any]:
    """Return every task's limits, by what the fit calls the task."""
    own = {get_task(item.task).name: item.limits or plan.limits for item in plan.pool}
    for target in plan.targets:
        test = target.test or plan.limits.test
        own[get_task(target.task).name] = plan.limits.model_copy(update={"test": test})
    return {task: own[get_task(task).name] for task in tasks}


def _labels(plan: Plan, asked: PlannedFit, tasks: list[str]) -> dict[str, int]:
    """Return how many labels there are of tasks of which that is said."""
    few = {get_task(target.task).name: target.labels for target in plan.targets}
    said = {task: few.get(get_task(task).name, asked.labels) for task in tasks}
    return {task: labels for task, labels in said.items() if labels is not None}
