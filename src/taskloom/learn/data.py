"""Labelled examples as training sees them: checked, and named by their content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.learn.head import check_labels
from taskloom.models.head import Head

#: inputs (list of str, or array (N, ...)) and labels (N,)
Labelled = tuple[Any, Any]


def check_split(data: Labelled, head: Head, *, split: str, classes: int = 1) -> NDArray[np.int64]:
    """Return the labels as int64 after checking a split.

    Parameters
    ----------
    data
        Inputs and labels.
    head
        Declares the label names and the task.
    split
        Its name, for messages.
    classes
        Fewest different labels that must occur.

    Raises
    ------
    DataError
        No example, different numbers of inputs and labels, a label outside the declared set, or
        too few classes.
    """
    inputs, labels = data
    checked = check_labels(labels, head.labels, task=head.task, split=split)
    if len(inputs) != len(checked) or not len(checked):
        raise DataError(
            f"task {head.task!r}, {split}: expected as many inputs as labels and at least one, "
            f"found {len(inputs)} and {len(checked)}",
            hint="Check the data source and its split",
        )
    found = len(np.unique(checked))
    if found < classes:
        raise DataError(
            f"task {head.task!r}, {split}: expected examples of {classes} classes or more, "
            f"found {found}",
            hint="Label examples of another class",
        )
    return checked


def data_digest(data: Labelled) -> str:
    """Return the SHA-256 (hex) of inputs and labels, order included.

    >>> data_digest((["a", "b"], [0, 1])) == data_digest((["ab", ""], [0, 1]))
    False
    """
    inputs, labels = data
    state = hashlib.sha256()
    if isinstance(inputs, np.ndarray):
        state.update(f"{inputs.dtype.str}{inputs.shape}".encode())
        state.update(np.ascontiguousarray(inputs).tobytes())
    else:
        for text in inputs:
            raw = text.encode("utf-8", "surrogatepass")
            state.update(len(raw).to_bytes(8, "little") + raw)
    state.update(np.asarray(labels, dtype="<i8").tobytes())
    return state.hexdigest()
