"""A small base of one's own, for plans that must not download anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.errors import DataError
from taskloom.learn.data import Labelled
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import train_expert
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.store.cache import canonical_digest


@dataclass(frozen=True)
class Corpus:
    """What a base is pretrained on: ``(inputs, labels)`` of two splits, and what the C labels mean."""

    name: str
    train: Labelled
    validation: Labelled
    label_names: tuple[str, ...]


def pool_corpora(parts: Sequence[Corpus], *, name: str = "pooled") -> Corpus:
    """Make one task of several: its classes are all classes of all of them, called ``TASK/CLASS``.

    The model must then also tell the tasks apart, which is easy where their inputs look different.

    Parameters
    ----------
    parts
        All of texts, or all of arrays that differ in nothing but their number.
    name
        Of the task that is made.

    Raises
    ------
    DataError
        Two parts have one name, or inputs that do not fit together.

    Examples
    --------
    >>> a = Corpus("a", (["x"], np.array([0])), (["y"], np.array([0])), ("p", "q"))
    >>> b = Corpus("b", (["z"], np.array([1])), (["w"], np.array([0])), ("p", "r"))
    >>> both = pool_corpora([a, b])
    >>> both.label_names, both.train[0], both.train[1].tolist()
    (('a/p', 'a/q', 'b/p', 'b/r'), ['x', 'z'], [0, 3])
    """
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise DataError(f"pretraining: expected tasks of different names, found {names}")
    starts = np.cumsum([0, *(len(part.label_names) for part in parts)]).tolist()
    return Corpus(
        name=name,
        train=_join([part.train for part in parts], starts, names),
        validation=_join([part.validation for part in parts], starts, names),
        label_names=tuple(f"{part.name}/{label}" for part in parts for label in part.label_names),
    )


def _join(splits: Sequence[Labelled], starts: Sequence[int], names: Sequence[str]) -> Labelled:
    labels = np.concatenate(
        [np.asarray(labels) + start for (_, labels), start in zip(splits, starts, strict=False)]
    )
    inputs = [each for each, _ in splits]
    forms = [
        (each.shape[1:], each.dtype.str) if isinstance(each, np.ndarray) else "texts" for each in inputs
    ]
    for found, name in zip(forms, names, strict=True):
        if found != forms[0]:
            raise DataError(
                f"pretraining: expected inputs of {name!r} like those of {names[0]!r}, {forms[0]}, "
                f"found {found}",
                hint="Pool tasks of one modality and one size",
            )
    if forms[0] == "texts":
        return [text for each in inputs for text in each], labels
    return np.concatenate(inputs), labels


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
