"""What a loaded task is: examples in three splits, the test split sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.evaluation.task import Task

Inputs = list[str] | NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their class numbers.

    Parameters
    ----------
    inputs
        N texts, or an array (N, ...): images (N, H, W) or (N, H, W, C), vectors (N, F). Images of bytes
        (0 to 255) stay bytes.
    labels
        Class numbers, (N,) int64.

    Examples
    --------
    >>> some = Examples(["a", "b", "c"], np.array([0, 1, 0]))
    >>> len(some), some.take([2, 0]).inputs
    (3, ['c', 'a'])
    """

    inputs: Inputs
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise DataError(f"{len(self.inputs)} inputs have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return the examples at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        if isinstance(self.inputs, list):
            return Examples([self.inputs[i] for i in index], self.labels[index])
        return Examples(self.inputs[index], self.labels[index])

    def joined(self, other: Examples) -> Examples:
        """Return these examples, and after them those of another split of the task.

        >>> Examples(["a"], np.array([0])).joined(Examples(["b"], np.array([1]))).inputs
        ['a', 'b']
        """
        labels = np.concatenate([self.labels, other.labels])
        if isinstance(self.inputs, list) and isinstance(other.inputs, list):
            return Examples([*self.inputs, *other.inputs], labels)
        return Examples(np.concatenate([self.inputs, other.inputs]), labels)

    def counts(self, classes: int) -> list[int]:
        """Return how many examples each of ``classes`` classes has."""
        return [int(n) for n in np.bincount(self.labels, minlength=classes)]

    def digest(self) -> str:
        """Return the sha256 of inputs and labels, in their order."""
        state = hashlib.sha256(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        if isinstance(self.inputs, list):
            for text in self.inputs:
                raw = text.encode("utf-8", "surrogatepass")
                state.update(len(raw).to_bytes(8, "little") + raw)
        else:
            state.update(repr(self.inputs.shape).encode())
            state.update(np.ascontiguousarray(self.inputs, dtype="<f4").tobytes())
        return state.hexdigest()


class SealedSplit:
    """Test examples that can be read once.

    Examples
    --------
    >>> sealed = SealedSplit("coin", Examples(["a"], np.array([0])))
    >>> len(sealed), sealed.opened_by
    (1, None)
    >>> sealed.open("score").inputs
    ['a']
    >>> sealed.open("tune")
    Traceback (most recent call last):
    ...
    taskloom.errors.DataError: the test split of 'coin' was already opened by 'score', ...
    """

    def __init__(self, task: str, examples: Examples) -> None:
        self._task = task
        self._examples: Examples | None = examples
        self._n = len(examples)
        self.opened_by: str | None = None

    def __len__(self) -> int:
        return self._n

    def open(self, reader: str) -> Examples:
        """Return the test examples to ``reader``, the only one who gets them.

        Raises
        ------
        DataError
            The split was opened before.
        """
        if self._examples is None:
            raise DataError(
                f"the test split of {self._task!r} was already opened by {self.opened_by!r}, "
                f"now {reader!r} asks for it",
                hint="Score every model in one reading, and tune on validation",
            )
        examples, self._examples = self._examples, None
        self.opened_by = reader
        return examples


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task with its examples.

    Parameters
    ----------
    digest
        sha256 over the annotation and the examples of all three splits.
    removed_duplicates
        Near-duplicates of validation or test examples that were taken out of train, and of test
        examples that were taken out of validation.
    removed_repeats
        Exact repeats of an input within its split (one is kept).
    """

    task: Task
    train: Examples
    validation: Examples
    test: SealedSplit
    digest: str
    removed_duplicates: int
    removed_repeats: int

    @property
    def n_test(self) -> int:
        """Number of test examples."""
        return len(self.test)
