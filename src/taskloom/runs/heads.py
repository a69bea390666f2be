"""One head per task, fitted on frozen base features and shared by every candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.data import TaskData
from taskloom.learn.head import fit_head
from taskloom.models.head import Head
from taskloom.runs.workspace import Workspace
from taskloom.store.atomic import atomic_directory
from taskloom.store.cache import canonical_digest

Array = NDArray[Any]


def head_for(
    workspace: Workspace, data: TaskData, features: Array, labels: Array, *, owner: str, seed: int
) -> Head:
    """Fit a head on ``features`` (N, D) and ``labels`` (N,), or take it from the stash.

    Parameters
    ----------
    owner
        Digest of the weights that made the features.
    """
    key = canonical_digest(["head", owner, data.digest, len(labels), seed])
    folder: Path = workspace.path / "stash" / "heads" / key[:32]
    name = data.task.name
    if folder.exists():
        workspace.count("heads", skipped=True)
        return Head.load(folder, name)
    head = fit_head(features, labels, data.task.label_names, task=name, seed=seed)
    with atomic_directory(folder) as temporary:
        head.save(temporary)
    workspace.count("heads", skipped=False)
    return head


def shots(data: TaskData) -> tuple[Any, Array]:
    """Return every labelled example a few-shot target may use: train and validation together."""
    train, validation = data.train, data.validation
    labels = np.concatenate([train.labels, validation.labels])
    if isinstance(train.inputs, list):
        return [*train.inputs, *validation.inputs], labels
    return np.concatenate([train.inputs, np.asarray(validation.inputs)]), labels


def cross_validated(
    features: Array, labels: Array, names: tuple[str, ...], *, folds: int, task: str, seed: int
) -> Array:
    """Return the held-out prediction (N,) of every example, each from a head that did not see it.

    Folds are stratified and seeded; every class keeps a training example wherever it has two.
    """
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    splitter = StratifiedKFold(max(2, min(folds, smallest)), shuffle=True, random_state=seed)
    predicted = np.empty_like(labels)
    for fit, held in splitter.split(features, labels):
        head = fit_head(features[fit], labels[fit], names, task=task, seed=seed)
        predicted[held] = head.predict(features[held])
    return predicted
