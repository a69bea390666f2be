"""The picture of a loop: validation after every round, beside what the loop is compared with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from taskloom.runs.loops.result import Loop
from taskloom.runs.report import theme
from taskloom.runs.report.drawing import check_picture, save_chart
from taskloom.runs.report.style import Spec, axis, config, fixed

_COLOURS = ("base", "expert", "good", "bad", "ink-2")


def loop_chart(loop: Loop) -> Spec:
    """Return a vega-lite specification: mean with interval, every task faint, rivals as rules."""
    rows: list[dict[str, Any]] = []
    for each in loop.rounds:
        low, high = each.interval
        rows.append({"round": each.number, "task": "mean", "score": each.mean, "low": low, "high": high})
        rows += [{"round": each.number, "task": s.task, "score": s.value} for s in each.scores]
    last = loop.last.number
    rules = [
        {
            "round": last,
            "rival": each.name,
            "score": sum(s.value for s in each.scores) / len(each.scores),
        }
        for each in loop.compared
    ]
    encoding: Spec = {
        "x": {
            "field": "round",
            "type": "quantitative",
            "axis": axis("Round", tickMinStep=1, format="d"),
            "scale": {"domain": [0, max(last, 1)]},
        },
        "y": {
            "field": "score",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis("Validation score", grid=True),
        },
    }
    names = [rule["rival"] for rule in rules]
    hues = {
        "domain": names,
        "range": [theme.colour(_COLOURS[place % len(_COLOURS)]) for place in range(len(names))],
    }
    mean = [{"filter": "datum.task == 'mean'"}]
    layers: list[Spec] = [
        {
            "transform": mean,
            "mark": {"type": "area", "color": theme.colour("merge"), "opacity": 0.15},
            "encoding": {
                "y": {"field": "low", "type": "quantitative"},
                "y2": {"field": "high"},
            },
        },
        {
            "transform": [{"filter": "datum.task != 'mean'"}],
            "mark": {"type": "line", "color": theme.colour("faint"), "strokeWidth": 1},
            "encoding": {"detail": {"field": "task", "type": "nominal"}},
        },
        {
            "transform": [{"filter": f"datum.task != 'mean' && datum.round == {last}"}],
            "mark": {"type": "text", "align": "left", "dx": 6, "color": theme.colour("ink-2")},
            "encoding": {"text": {"field": "task", "type": "nominal"}},
        },
        {
            "transform": mean,
            "mark": {
                "type": "line",
                "color": theme.colour("merge"),
                "strokeWidth": 2.5,
                "point": {"color": theme.colour("merge"), "filled": True, "size": 40},
            },
        },
    ]
    if rules:
        layers.append(
            {
                "data": {"values": rules},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
                "encoding": {
                    "x": None,
                    "y": {"field": "score", "type": "quantitative"},
                    "color": {
                        "field": "rival",
                        "type": "nominal",
                        "scale": hues,
                        "legend": {"title": None, "orient": "top", "symbolType": "stroke"},
                    },
                },
            }
        )
    title = f"{loop.method}: mean over {len(loop.last.scores)} tasks (95 % interval), and every task"
    return {
        **fixed(rows),
        "title": {"text": title, "anchor": "start", "fontSize": 13, "color": theme.colour("ink")},
        "width": 480,
        "height": 300,
        "encoding": encoding,
        "layer": layers,
        "config": config(),
    }


def save_loop(loop: Loop, path: str | os.PathLike[str]) -> Path:
    """Draw `loop_chart` into a PNG or SVG file, by the suffix of its name.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    PlanError, OutputError
        Another suffix; a file that cannot be written.
    """
    target = check_picture(path)
    return save_chart(loop_chart(loop), target)
