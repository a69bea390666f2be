"""A small base of one's own, for plans that must not download anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.learn.data import Labelled
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import train_expert
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.store.cache import canonical_digest


def pretrain_base(
    spec: Mapping[str, Any],
    train: Labelled,
    validation: Labelled,
    label_names: Sequence[str],
    options: TrainOptions | None = None,
    *,
    cache: str | Path,
    task: str = "pretrain",
    progress: Progress = silent,
) -> Path:
    """Train an encoder from random weights, with its head, and return its directory.

    Cached and resumable as `train_expert`; the directory also holds the trained head.

    Parameters
    ----------
    spec
        See `init_encoder`.
    train, validation
        ``(inputs, labels)``.
    label_names
        The C class names.
    options
        ``method`` and ``train_head`` are set to ``full`` and True; the default peak learning rate
        is 1e-3.
    cache
        Folder that holds the untrained and the trained encoder.
    task
        Name of the pretraining task.
    progress
        See `train_expert`.

    Raises
    ------
    PlanError, DataError, NumericalError, OutputError
        See `init_encoder` and `train_expert`.
    """
    options = options or TrainOptions(epochs=10)
    options = options.model_copy(
        update={
            "method": "full",
            "train_head": True,
            "learning_rate": options.learning_rate or 1e-3,
        }
    )
    identity = canonical_digest({"spec": dict(spec), "seed": options.seed})
    start = Path(cache) / f"init-{identity[:16]}"
    if not start.exists():
        init_encoder(spec, start, seed=options.seed)
    dim = Encoder.load(start).dim
    head = Head(
        np.zeros((len(label_names), dim), dtype=np.float32),
        np.zeros(len(label_names), dtype=np.float32),
        tuple(label_names),
        task,
    )
    expert = train_expert(start, head, train, validation, options, cache=cache, progress=progress)
    return expert.directory
