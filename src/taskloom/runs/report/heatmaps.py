"""Heatmaps: transfer, merges against the base, task-vector cosines.

Every cell carries its number with a sign, so colour only repeats what can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from taskloom.runs.report import tables, words
from taskloom.runs.report.index import Index
from taskloom.runs.report.style import Spec, axis, config, fixed
from taskloom.runs.report.theme import colour, shade
from taskloom.runs.result import Matrix

Chart = tuple[str, str, str, Spec, tables.Table]


def transfer_chart(index: Index) -> Chart | None:
    """Draw what each expert gains or loses on each task, in points against the base."""
    source = index.result.transfer
    if source is None or not source.rows or not source.columns:
        return None
    return _gain_chart(
        index,
        source,
        caption=(
            "Test score minus base, in points. Blue with + helps, orange with \N{MINUS SIGN} hurts "
            "(negative transfer); the framed cell is the expert's own task."
        ),
    )


def merge_gain_chart(index: Index) -> Chart | None:
    """Draw what each merge gains or loses on each task, in points against the base."""
    merges = [m.name for m in index.result.models if m.kind == "merge" and index.gains(m.name)]
    task_names = [task.name for task in index.scored_tasks()]
    if not merges or not task_names:
        return None
    values: list[list[float | None]] = []
    for merge in merges:
        gains = {gain.task.name: gain.value for gain in index.gains(merge)}
        values.append([gains.get(name) for name in task_names])
    source = Matrix(
        title="Merges against the base, task by task",
        rows=merges,
        columns=task_names,
        values=values,
        row_label="Merge",
        column_label="Task",
    )
    caption = "Test score minus base, in points. Orange with \N{MINUS SIGN} is negative transfer."
    return _gain_chart(index, source, caption=caption)


def cosine_chart(index: Index) -> Chart | None:
    """Draw how far the experts' task vectors point the same way."""
    source = index.result.cosines
    if source is None or not source.rows or not source.columns:
        return None
    off = [v for r, c, v in _cells(source) if r != c and v is not None and math.isfinite(v)]
    largest = max(map(abs, off), default=1.0) or 1.0
    spec = _heatmap(
        index,
        source,
        write=lambda value, _: words.decimal(value),
        largest=largest,
        plain=lambda row, column: row == column,
        framed=lambda _row, _column: False,
    )
    described = (
        f"off the diagonal from {words.decimal(min(off))} to {words.decimal(max(off))}" if off else ""
    )
    caption = "0: the two experts changed the base in unrelated directions; below 0: against each other."
    description = (
        f"Heatmap of cosines between {words.count(len(source.rows), 'task vector')}, {described}."
    )
    return source.title, caption, description, spec, tables.matrix(index, source, in_points=False)


def _gain_chart(index: Index, source: Matrix, *, caption: str) -> Chart:
    values = [v for _, _, v in _cells(source) if v is not None and math.isfinite(v)]
    spec = _heatmap(
        index,
        source,
        write=lambda value, column: words.points(value, _n(index, column), signed=True),
        largest=max(map(abs, values), default=1.0) or 1.0,
        plain=lambda _row, _column: False,
        framed=lambda row, column: row in index.models and index.models[row].task == column,
    )
    losses = sum(v < 0 for v in values)
    description = (
        f"Heatmap of {words.count(len(source.rows), 'model')} by "
        f"{words.count(len(source.columns), 'task')}: {losses} of {words.count(len(values), 'cell')} "
        "are below the base."
    )
    return source.title, caption, description, spec, tables.matrix(index, source, in_points=True)


def _heatmap(
    index: Index,
    source: Matrix,
    *,
    write: Callable[[float | None, str], str],
    largest: float,
    plain: Callable[[str, str], bool],
    framed: Callable[[str, str], bool],
) -> Spec:
    row_labels = [index.any_label(name) for name in source.rows]
    column_labels = [index.any_label(name) for name in source.columns]
    rows = []
    for row, column, value in _cells(source):
        known = value is not None and math.isfinite(value)
        strength = value / largest if known and value is not None and not plain(row, column) else 0.0
        label = index.any_label(row), index.any_label(column)
        rows.append(
            {
                "row": label[0],
                "column": label[1],
                "text": write(value, column),
                "fill": shade(strength) if known else colour("card"),
                "framed": framed(row, column),
            }
        )
    return draw(
        rows,
        row_labels,
        column_labels,
        row_title=source.row_label,
        column_title=source.column_label,
    )


def draw(
    rows: list[dict[str, Any]],
    row_labels: list[str],
    column_labels: list[str],
    *,
    row_title: str,
    column_title: str,
    height: int = 34,
) -> Spec:
    """Return a heatmap of cells.

    Parameters
    ----------
    rows
        One cell each: ``row``, ``column``, ``text``, ``fill`` (a colour) and ``framed``.
    row_labels, column_labels
        In the order in which they are drawn.
    row_title, column_title
        What rows and columns are, for the tooltip.
    height
        Of a row, in pixels.
    """
    place: dict[str, Any] = {
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": None,
            "scale": {"domain": column_labels, "paddingInner": 0.04},
            "axis": axis(None, orient="top", labelAngle=-38, labelAlign="left", labelLimit=200,
                         domain=False, ticks=False, labelColor=colour("ink")),
        },
        "y": {
            "field": "row",
            "type": "nominal",
            "sort": None,
            "scale": {"domain": row_labels, "paddingInner": 0.06},
            "axis": axis(None, labelLimit=190, domain=False, ticks=False),
        },
        "tooltip": [
            {"field": "row", "title": row_title, "type": "nominal"},
            {"field": "column", "title": column_title, "type": "nominal"},
            {"field": "text", "title": "Value", "type": "nominal"},
        ],
    }  # fmt: skip
    fill = {"field": "fill", "type": "nominal", "scale": None}
    layers = [
        {"mark": {"type": "rect", "cornerRadius": 3}, "encoding": {"color": fill}},
        {
            "transform": [{"filter": {"field": "framed", "equal": True}}],
            "mark": {"type": "rect", "cornerRadius": 3, "filled": False, "strokeWidth": 1.75,
                     "stroke": colour("ink"), "aria": False},
        },
        {
            "mark": {"type": "text", "fontSize": 12, "color": colour("heat-ink"), "aria": False},
            "encoding": {"text": {"field": "text"}},
        },
    ]  # fmt: skip
    return {
        **fixed(rows),
        "width": {"step": 62},
        "height": {"step": height},
        "encoding": place,
        "layer": layers,
        "config": config(),
    }


def _cells(source: Matrix) -> list[tuple[str, str, float | None]]:
    return [
        (row, column, value)
        for row, values in zip(source.rows, source.values, strict=True)
        for column, value in zip(source.columns, values, strict=True)
    ]


def _n(index: Index, task: str) -> int | None:
    return index.tasks[task].n_test if task in index.tasks else None
