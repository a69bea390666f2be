"""One head per task, fitted on frozen base features and shared by every candidate.

Heads and held-out predictions are kept under a digest of the features and labels themselves, so that
whatever changes a feature (weights, tokenizer, precision, batch size) is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.task import Task
from taskloom.learn.head import fit_head
from taskloom.models.head import Head, head_names
from taskloom.runs.workspace import Workspace

Array = NDArray[Any]


def head_for(workspace: Workspace, task: Task, features: Array, labels: Array, *, seed: int) -> Head:
    """Fit a head on ``features`` (N, D) and ``labels`` (N,), or take it from the stash."""
    names = task.label_names
    folder: Path = workspace.entry("heads", [_digest(features, labels), task.name, names, seed])
    if task.name in head_names(folder):
        workspace.count("heads", skipped=True)
        return Head.load(folder, task.name)
    head = fit_head(features, labels, names, task=task.name, seed=seed)
    head.save(folder)
    workspace.count("heads", skipped=False)
    return head


def held_out(
    workspace: Workspace,
    task: Task,
    features: Array,
    labels: Array,
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> Array:
    """Return `cross_validated` predictions, or take them from the stash."""
    names = task.label_names
    key = [_digest(features, labels), task.name, names, folds, repeats, seed]
    found = workspace.array("predictions", key)
    if found is None:
        found = cross_validated(
            features, labels, names, folds=folds, task=task.name, seed=seed, repeats=repeats
        )
        workspace.keep_array("predictions", key, found)
    return found


def cross_validated(
    features: Array,
    labels: Array,
    names: tuple[str, ...],
    *,
    folds: int,
    task: str,
    seed: int,
    repeats: int = 1,
) -> Array:
    """Return the held-out prediction (N,) of every example, from heads that did not see it.

    With several ``repeats`` the examples are dealt into folds anew each time and an example's class is
    the one with the highest mean probability, which depends less on the luck of one deal. The folds
    depend on labels and seed alone, so that all candidates are compared on the same ones. Everything a
    head needs, the penalty and the scaling of features included, is chosen within its folds. A head
    that would see one class only predicts that class.
    """
    chances = np.zeros((len(labels), len(names)))
    for deal in range(seed, seed + repeats):
        fold = fold_of(labels, folds, deal)
        for number in np.unique(fold):
            held = fold == number
            seen = np.unique(labels[~held])
            if len(seen) == 1:
                chances[held, seen[0]] += 1
                continue
            head = fit_head(features[~held], labels[~held], names, task=task, seed=seed)
            chances[held] += head.probabilities(features[held])
    return np.asarray(chances.argmax(1), dtype=labels.dtype)


def fold_of(labels: Array, folds: int, seed: int) -> Array:
    """Return the fold (N,) of every example: sizes differ by one at most, each class is spread out.

    >>> fold_of(np.array([0, 0, 0, 0, 1, 1]), 2, 0).tolist()
    [1, 0, 0, 1, 1, 0]
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)])
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _digest(features: Array, labels: Array) -> str:
    state = hashlib.sha256(repr(features.shape).encode())
    state.update(np.ascontiguousarray(features, dtype="<f4").tobytes())
    state.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    return state.hexdigest()
