"""Features of sources by their surrogates: the base is run once, and no source at all.

A surrogate is made once for every source, from what base and source say of the source's own training
examples, and kept as a small file (`taskloom.choose.space_map`). Costs are counted beside those of the
full model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.space_map import SpaceMap, open_map
from taskloom.choose.surrogates.esm import explained
from taskloom.errors import CheckpointError, DataError
from taskloom.evaluation.data import TaskData
from taskloom.models.encoder import Encoder
from taskloom.progress import Progress
from taskloom.registry import get
from taskloom.runs.candidates import read_all
from taskloom.runs.desk import Desk
from taskloom.store.pool import Expert, Pool

Array = NDArray[Any]
#: most examples of a source's task that its surrogate is made from
EXAMPLES = 2000
#: share of them that tells how well it does, and is not fitted to
HELD_OUT = 0.2


@dataclass(frozen=True)
class SurrogateCost:
    """What one source costs by its surrogate, and in full.

    Attributes
    ----------
    expert
        Its name.
    map_bytes, model_bytes
        Of the files: the surrogate, and the weights of the source.
    made
        Whether it was made now; else it was found.
    make_seconds
        Wall seconds of making it, then or now: running base and source on its examples, and fitting.
    map_seconds
        Of mapping the base's features of the target's examples.
    model_seconds
        What reading the source and running it on them would take, by what it took on its own examples.
    explained
        Share of what fine-tuning changed that it tells, on examples it was not fitted to.
    """

    expert: str
    map_bytes: int
    model_bytes: int
    made: bool
    make_seconds: float
    map_seconds: float
    model_seconds: float
    explained: float


def by_surrogates(
    desk: Desk,
    pool: Pool,
    base_features: Array,
    task_of: Callable[[str], TaskData | None],
    folder: Path,
    *,
    method: str = "esm",
    options: Mapping[str, Any] | None = None,
    progress: Progress,
) -> tuple[dict[str, Array], tuple[SurrogateCost, ...]]:
    """Return the mapped base features ``(N, D)`` by expert, and what every one cost.

    Parameters
    ----------
    base_features
        ``(N, D)`` of the target's labelled examples.
    task_of
        Expert -> what it was trained on, asked only where its surrogate is still to be made.
    folder
        Where surrogates are, or will be, as ``NAME.safetensors``.

    Raises
    ------
    DataError
        A surrogate is missing and nobody knows what the source was trained on.
    CheckpointError
        A file of other weights or of another base.
    """
    entry = get("surrogate", method)
    checked = entry.validate(options or {})
    found: dict[str, Array] = {}
    costs = []
    for number, expert in enumerate(pool.experts, start=1):
        path = folder / f"{expert.name}.safetensors"
        made = not path.is_file()
        if made:
            fit = make_surrogate(
                desk.reader.encoder, expert, task_of(expert.name), entry.function, checked
            )
            fit.saying(method=method).save(path)
        surrogate = _opened(path, desk.reader.encoder, expert)
        begun = time.perf_counter()
        found[expert.name] = surrogate.apply(base_features)
        seconds = time.perf_counter() - begun
        costs.append(_cost(expert, surrogate, path, len(base_features), made, seconds))
        progress("map the base's features", number, len(pool.experts))
    return found, tuple(costs)


def make_surrogate(
    encoder: Encoder,
    expert: Expert,
    data: TaskData | None,
    fit: Callable[..., SpaceMap],
    options: Mapping[str, Any],
) -> SpaceMap:
    """Run base and source on examples of the source's task, and fit what takes the one to the other.

    Parameters
    ----------
    fit, options
        Registered surrogate.

    Raises
    ------
    DataError
        Nobody knows what the source was trained on.
    """
    if data is None:
        raise DataError(
            f"expert {expert.name!r}: a surrogate is made from examples of the source's task, "
            "and nobody knows which it is",
            hint="Say it with --trained-on NAME=TASK, or put its surrogate into the folder",
        )
    begun = time.perf_counter()
    inputs = data.train.take(np.arange(min(len(data.train), EXAMPLES))).inputs
    base = encoder.features(inputs)
    clock = [time.perf_counter()]
    weights = read_all(expert.checkpoint)
    clock.append(time.perf_counter())
    tuned = encoder.features(inputs, weights=weights)
    clock.append(time.perf_counter())
    cut = max(2, round(len(base) * (1 - HELD_OUT)))
    held = slice(cut, None) if len(base) - cut >= 2 else slice(None)
    share = explained(fit(base[:cut], tuned[:cut], **options), base[held], tuned[held])
    surrogate = fit(base, tuned, **options)
    return surrogate.saying(
        task=data.task.name,
        examples=str(len(base)),
        base=encoder.digest(),
        expert=expert.checkpoint.digest(),
        explained=f"{share:.6f}",
        seconds=f"{time.perf_counter() - begun:.6f}",
        read_seconds=f"{clock[1] - clock[0]:.6f}",
        run_seconds=f"{(clock[2] - clock[1]) / len(base):.9f}",
    )


def _opened(path: Path, encoder: Encoder, expert: Expert) -> SpaceMap:
    surrogate = open_map(path)
    for what, digest in (("base", encoder.digest()), ("expert", expert.checkpoint.digest())):
        if surrogate.table.get(what) != digest:
            raise CheckpointError(
                f"{path}: this surrogate was made of another {what} than that given",
                hint="Remove the file to make it again, or name another folder",
            )
    return surrogate


def _cost(
    expert: Expert, surrogate: SpaceMap, path: Path, n: int, made: bool, seconds: float
) -> SurrogateCost:
    table = surrogate.table
    return SurrogateCost(
        expert.name,
        path.stat().st_size,
        model_bytes(expert),
        made,
        float(table["seconds"]),
        seconds,
        float(table["read_seconds"]) + float(table["run_seconds"]) * n,
        float(table["explained"]),
    )


def model_bytes(expert: Expert) -> int:
    """Return the bytes of an expert's weight files, or of its tensors where they are in memory."""
    folder: Path | None = getattr(expert.checkpoint, "path", None)
    if folder is None:
        return sum(info.nbytes for info in expert.checkpoint.tensors.values())
    files = folder.glob("*.safetensors") if folder.is_dir() else [folder]
    return sum(file.stat().st_size for file in files)
