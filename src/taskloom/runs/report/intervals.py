"""Means with their intervals, one row of a chart each, as layers of pages of measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskloom.runs.report.style import Spec
from taskloom.runs.report.theme import colour


def interval_layers(
    rows: Sequence[Mapping[str, Any]],
    marks: Iterable[float],
    *,
    x: Spec,
    y: Spec,
    color: Spec,
    shape: Spec,
    width: int,
) -> list[Spec]:
    """Return dashed lines, and for every row its interval, its mean and a number beside the frame.

    Parameters
    ----------
    rows
        With ``value``, ``low``, ``high`` and ``shown``, the number as it is written, and the fields of
        ``y``, ``color`` and ``shape``.
    marks
        Values of x that a dashed line goes through.
    x, y, color, shape
        Channels of the encoding, ``x`` without its field.
    width
        Of the frame, in pixels.
    """
    return [
        {"data": {"values": [{"at": value} for value in marks]},
         "mark": {"type": "rule", "strokeDash": [3, 3], "color": colour("base")},
         "encoding": {"x": {**x, "field": "at"}}},
        {"data": {"values": rows},
         "mark": {"type": "rule", "strokeWidth": 1.6, "opacity": 0.8},
         "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": color}},
        {"data": {"values": rows},
         "mark": {"type": "point", "filled": True, "size": 46, "opacity": 1},
         "encoding": {"y": y, "x": {**x, "field": "value"}, "color": color, "shape": shape}},
        {"data": {"values": rows},
         "mark": {"type": "text", "align": "left", "fontSize": 9.5, "color": colour("ink-2")},
         "encoding": {"y": y, "x": {"value": width + 5}, "text": {"field": "shown"}}},
    ]  # fmt: skip
