"""From cleaned rows to inputs and class numbers, with what identifies each example's content."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError, nearest
from taskloom.evaluation.data import Examples
from taskloom.evaluation.rows import Row, column, shortened
from taskloom.evaluation.task import Task


def build_examples(task: Task, rows: Sequence[Row]) -> Examples:
    """Make the examples of cleaned rows, in their order.

    Raises
    ------
    DataError
        No rows; a missing column or value; a label outside the declared set; text that is blank, or
        numbers that are not finite or differ in shape.
    """
    if not rows:
        raise DataError(
            f"task {task.name!r}: no examples are left after the cleaning rules",
            hint="Check 'source' and 'clean'",
        )
    labels = _labels(task, rows)
    if task.modality == "text":
        return Examples([_text(task, row, i) for i, row in enumerate(rows)], labels)
    return Examples(_array(task, rows), labels)


def content_keys(examples: Examples) -> list[str]:
    """Return a key for each example that equal contents share.

    Text is compared without regard to case and spaces, numbers when rounded to 6 decimals, bytes as
    they are.

    >>> keys = content_keys(Examples(["A  b", "a b ", "c"], np.zeros(3, np.int64)))
    >>> keys[0] == keys[1], keys[0] == keys[2]
    (True, False)
    """
    if isinstance(examples.inputs, list):
        raw = [
            " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
            for text in examples.inputs
        ]
    elif examples.inputs.dtype == np.uint8:
        raw = [row.tobytes() for row in examples.inputs]
    else:
        rounded = np.round(examples.inputs.astype(np.float64), 6) + 0.0  # no negative zero
        raw = [row.tobytes() for row in rounded]
    return [hashlib.sha256(each).hexdigest() for each in raw]


def _labels(task: Task, rows: Sequence[Row]) -> NDArray[np.int64]:
    number = task.label_of
    values = [_label_text(column(row, task.columns.label)) for row in rows]
    unknown = Counter(value for value in values if value not in number)
    if unknown:
        first = next(iter(unknown))
        guess = nearest(first, number)
        did = f" (did you mean {guess!r}?)" if guess else ""
        raise DataError(
            f"task {task.name!r}: {sum(unknown.values())} of {len(rows)} labels are not declared, "
            f"e.g. {first!r} in row {values.index(first) + 1}{did}; "
            f"declared are {shortened(number)}",
            hint="Add the value to 'labels', or drop its rows with a 'keep' rule",
        )
    return np.array([number[value] for value in values], dtype=np.int64)


def _label_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(task: Task, row: Row, i: int) -> str:
    parts: dict[str, str] = {}
    for name in task.columns.inputs:
        value = column(row, name)
        text = "" if value is None else str(value)
        if task.whitespace == "collapse":
            text = re.sub(r"\s+", " ", text).strip()
        if not text.strip():
            raise DataError(
                f"task {task.name!r}: column {name!r} of row {i + 1} is empty",
                hint=f"Drop such rows with the rule {{rule: keep, column: {name}, matches: '\\S'}}",
            )
        parts[name] = text
    return task.text_template.format(**parts)


def _array(task: Task, rows: Sequence[Row]) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Stack the rows' numbers; pictures of bytes stay bytes, all else becomes float32."""
    names = task.columns.inputs
    made: list[NDArray[Any]] = []
    for i, row in enumerate(rows):
        values = [column(row, name) for name in names]
        try:
            array = _numbers(values[0] if len(values) == 1 else values)
        except (TypeError, ValueError):
            raise DataError(
                f"task {task.name!r}: row {i + 1} holds {shortened(values, 4)}, not numbers"
            ) from None
        array = array if array.ndim else array[None]
        if not np.isfinite(array).all():
            raise DataError(f"task {task.name!r}: row {i + 1} holds NaN or infinity")
        if made and array.shape != made[0].shape:
            raise DataError(
                f"task {task.name!r}: row {i + 1} has shape {array.shape}, the first {made[0].shape}"
            )
        made.append(array)
    expected = 1 if task.modality == "vector" else (2, 3)
    if made[0].ndim not in np.atleast_1d(expected):
        raise DataError(
            f"task {task.name!r}: inputs have {made[0].ndim} dimensions, expected {expected} "
            f"for modality {task.modality}"
        )
    return np.stack(made)


def _numbers(value: object) -> NDArray[Any]:
    bytes_already = isinstance(value, np.ndarray) and value.dtype == np.uint8
    return np.asarray(value, dtype=np.uint8 if bytes_already else np.float32)
