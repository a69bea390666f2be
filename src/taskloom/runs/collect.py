"""``taskloom.collect``: run a task's examples through an expert and keep a statistic of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.learn.collect import collect as collected
from taskloom.learn.probe import Examples, Probe, Setting
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.desk import open_desk
from taskloom.runs.plan import Limits
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.hub import resolve_model
from taskloom.store.open import Source, open_checkpoint
from taskloom.store.statistic import Statistic


def collect(
    statistic: str,
    model: str,
    task: str,
    *,
    base: str | None = None,
    against: Mapping[str, Source] | None = None,
    options: Mapping[str, Any] | None = None,
    examples: int = 256,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = silent,
) -> Statistic:
    """Collect a statistic of one expert on the training examples of its task.

    Parameters
    ----------
    statistic
        A name that ``taskloom methods statistic`` lists.
    model
        Directory or hub id of the expert; an adapter needs ``base``.
    task
        Registered task, or path of an annotation.
    base
        What the expert was tuned from. Its frozen features fit the head if the expert carries none
        for the task; some statistics compare with its weights.
    against
        Other experts by name, for statistics that compare.
    options
        Options of the statistic.
    examples
        Most training examples, drawn with ``seed``.
    batch_size
        Examples per forward pass, where they are not run one by one.

    Returns
    -------
    Statistic
        To be given to a merge, or saved.

    Raises
    ------
    PlanError, DataError, CheckpointError, SourceUnreachable, NumericalError
        A name or option that is wrong, data or weights that do not fit.
    """
    given = dict(options or {})
    entry = get("statistic", statistic)
    if "seed" in entry.schema.model_fields:
        given.setdefault("seed", seed)
    entry.validate(given)
    origin = None if base is None else open_checkpoint(base)
    expert = open_checkpoint(model, base=origin)
    folder = getattr(expert, "path", None)
    directory = folder if folder is not None and (folder / "config.json").is_file() else None
    if directory is None:
        if base is None:
            raise PlanError(
                f"{model}: has no config.json, so nothing says how to run it", hint="Give --base"
            )
        directory = resolve_model(base)
    data = load_task(task, seed=seed, max_train=examples, max_test=2, progress=progress)
    head = _head(folder, task, data, base, seed, progress)
    encoder = Encoder.load(directory)
    probe = Probe.of_encoder(
        encoder, head, weights=_weights(expert), digest=expert.digest(), label=expert.label
    )
    others = {
        name: _inside(encoder, open_checkpoint(source, base=origin))
        for name, source in (against or {}).items()
    }
    batches = Examples.of_task(
        encoder,
        head,
        (data.train.inputs, data.train.labels),
        count=examples,
        batch_size=batch_size,
        seed=seed,
    )
    start = None if origin is None else _inside(encoder, origin)
    setting = Setting(probe, batches, base=start, against=others, progress=progress)
    found = collected(statistic, setting, **given)
    more = {"task": data.task.name, "task_digest": data.digest, "seed": str(seed)}
    return Statistic(found.kind, found.checkpoint, {**found.table, **more})


def _weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def _inside(encoder: Encoder, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Read the weights that the encoder runs with."""
    return {n: t for n, t in _weights(checkpoint).items() if n in encoder.names}


def _head(
    folder: Path | None,
    task: str,
    data: TaskData,
    base: str | None,
    seed: int,
    progress: Progress,
) -> Head:
    """Return the head that the expert carries, or the one fitted on the base's features."""
    name = data.task.name
    if folder is not None and name in head_names(folder):
        return Head.load(folder, name)
    if base is None:
        raise PlanError(
            f"{folder}: there is no head for task {name!r}, and no base to fit one on",
            hint="Give --base",
        )
    desk = open_desk(base, seed=seed, progress=progress)
    return desk.head(desk.load(task, Limits()))
