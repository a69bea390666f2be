"""One linear head per task, kept in ``heads/`` beside the shared encoder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskloom.errors import CheckpointError, DataError, nearest

FOLDER = "heads"
_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier on an encoder's features.

    Attributes
    ----------
    weight
        ``(C, D)`` float32.
    bias
        ``(C,)`` float32.
    labels
        The C class names, in the order of the rows.
    task
        Name of the task; the file name it is kept under.

    Raises
    ------
    DataError
        Shapes that do not fit each other, a class named twice, or a task name that is no file name.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    labels: tuple[str, ...]
    task: str

    def __post_init__(self) -> None:
        weight = np.ascontiguousarray(self.weight, dtype=np.float32)
        bias = np.ascontiguousarray(self.bias, dtype=np.float32)
        labels = tuple(str(label) for label in self.labels)
        if weight.ndim != 2 or bias.shape != (len(weight),) or len(labels) != len(weight):
            raise DataError(
                f"head of task {self.task!r}: expected weight (C, D), bias (C,) and C labels, "
                f"found {weight.shape}, {bias.shape} and {len(labels)} labels"
            )
        if len(set(labels)) != len(labels):
            raise DataError(f"head of task {self.task!r}: expected distinct labels, found {labels}")
        _file_name(self.task)
        for name, value in (("weight", weight), ("bias", bias), ("labels", labels)):
            object.__setattr__(self, name, value)

    def logits(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return ``(N, C)`` float32 for features ``(N, D)``.

        Raises
        ------
        DataError
            Features of another width.
        """
        matrix = np.asarray(features, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != self.weight.shape[1]:
            raise DataError(
                f"head of task {self.task!r}: expected features (N, {self.weight.shape[1]}), "
                f"found {matrix.shape}",
                hint="Use the encoder the head was fitted on",
            )
        result: NDArray[np.float32] = matrix @ self.weight.T + self.bias
        return result

    def predict(self, features: ArrayLike) -> NDArray[np.int64]:
        """Return the index of the largest logit, ``(N,)`` int64; the first of equal ones."""
        best: NDArray[np.int64] = self.logits(features).argmax(1).astype(np.int64)
        return best

    def probabilities(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the softmax of the logits, ``(N, C)`` float64."""
        logits = self.logits(features).astype(np.float64)
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        result: NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
        return result

    def digest(self) -> str:
        """SHA-256 over weight, bias, labels and task name."""
        import hashlib

        state = hashlib.sha256(json.dumps([self.task, *self.labels]).encode())
        state.update(self.weight.astype("<f4").tobytes())
        state.update(self.bias.astype("<f4").tobytes())
        return state.hexdigest()

    def save(self, directory: str | Path) -> Path:
        """Write ``heads/<task>.safetensors`` into a model's directory, atomically.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        from safetensors.numpy import save

        from taskloom.store.atomic import atomic_file

        path = Path(directory) / FOLDER / _file_name(self.task)
        metadata = {"task": self.task, "labels": json.dumps(self.labels, ensure_ascii=False)}
        with atomic_file(path) as temp:
            temp.write_bytes(save({"weight": self.weight, "bias": self.bias}, metadata=metadata))
        return path

    @classmethod
    def load(cls, directory: str | Path, task: str) -> Head:
        """Read the head of a task from a model's directory.

        Raises
        ------
        CheckpointError
            There is no head for the task (the nearest one is named), or its file is malformed.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(directory) / FOLDER / _file_name(task)
        if not path.is_file():
            known = head_names(directory)
            guess = nearest(task, known)
            raise CheckpointError(
                f"{directory}: there is no head for task {task!r}; heads: {', '.join(known) or 'none'}",
                hint=f"Did you mean {guess!r}" if guess else "Fit one on labelled examples",
            )
        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                return cls(
                    file.get_tensor("weight"),
                    file.get_tensor("bias"),
                    tuple(json.loads(metadata["labels"])),
                    metadata["task"],
                )
        except (SafetensorError, KeyError, TypeError, ValueError, DataError) as error:
            raise CheckpointError(
                f"{path}: expected a head (weight, bias, and labels in the metadata), but: {error}",
                hint="Fit the head again",
            ) from error


def head_names(directory: str | Path) -> tuple[str, ...]:
    """Return the tasks that a model's directory has heads for, sorted; () when there are none."""
    folder = Path(directory) / FOLDER
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))


def _file_name(task: Any) -> str:
    if not isinstance(task, str) or not _TASK.fullmatch(task) or ".." in task:
        raise DataError(
            f"head: expected a task name of letters, digits, '_', '-' and '.', found {task!r}",
            hint="Rename the task",
        )
    return f"{task}.safetensors"
