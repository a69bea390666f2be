"""The matrix and the leaderboard as SVG, in the colours of the report in light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from taskloom.runs.report.drawing import titled_svg
from taskloom.runs.report.intervals import interval_layers
from taskloom.runs.report.style import Spec, axis
from taskloom.runs.report.theme import colour
from taskloom.runs.transfer.leaderboard import Standing
from taskloom.runs.transfer.matrix import Grid
from taskloom.runs.transfer.tables import source_rows

CELL, ROW, WIDTH = 46, 17, 380


def heatmap(grid: Grid, title: str) -> str:
    """Draw mean gains in points of accuracy: sources downwards, the most helpful first; with numbers."""
    order = [row.source for row in source_rows(grid)]
    rows = []
    for source in order:
        s = grid.sources.index(source)
        for t, target in enumerate(grid.targets):
            gain = float(grid.gain[s, t])
            if gain == gain:
                points = 100 * gain
                rows.append(
                    {"source": source, "target": target, "gain": points, "shown": _points(points)}
                )
    limit = max(1.0, float(100 * np.nanmax(np.abs(grid.gain))))
    x = {"field": "target", "type": "nominal", "sort": list(grid.targets),
         "axis": axis(None, orient="top", labelAngle=-40, domain=False, ticks=False)}  # fmt: skip
    y = {"field": "source", "type": "nominal", "sort": order,
         "axis": axis(None, labelLimit=220, domain=False, ticks=False)}  # fmt: skip
    shades = [colour("heat-low"), colour("heat-mid"), colour("heat-high")]
    scale = {"domain": [-limit, 0, limit], "clamp": True, "range": shades, "interpolate": "rgb"}
    color = {"field": "gain", "type": "quantitative", "legend": None, "scale": scale}
    spec: Spec = {
        "data": {"values": rows},
        "width": CELL * len(grid.targets),
        "height": 24 * len(order),
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": {"type": "rect", "stroke": colour("card"), "strokeWidth": 1},
             "encoding": {"color": color}},
            {"mark": {"type": "text", "fontSize": 11, "color": colour("heat-ink")},
             "encoding": {"text": {"field": "shown"}}},
        ],
    }  # fmt: skip
    seeds = f"mean of {len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "one seed"
    under = f"{grid.way}: points of test accuracy over the base, {seeds}. Empty: no such pair."
    return titled_svg(spec, title, under)


def board(standings: Sequence[Standing], title: str, *, guesses: Sequence[str]) -> str:
    """Draw the weighted tau of every estimator with its interval, the best first.

    Parameters
    ----------
    guesses
        Names of the baselines, which have a shape and a colour of their own.
    """
    rows: list[dict[str, Any]] = []
    for one in standings:
        tau = one.measures["weighted tau"]
        if tau is not None:
            kind = "baseline" if one.name in guesses else "estimator"
            rows.append({"name": one.name, "kind": kind, "value": tau.mean, "low": tau.low,
                         "high": tau.high, "shown": f"{tau.mean:+.2f}"})  # fmt: skip
    low = min(-0.2, *(row["low"] for row in rows)) - 0.02
    high = max(0.2, *(row["high"] for row in rows)) + 0.02
    x = {"type": "quantitative", "axis": axis(None, grid=True, tickCount=7),
         "scale": {"domain": [float(np.floor(10 * low) / 10), float(np.ceil(10 * high) / 10)],
                   "nice": False, "zero": False}}  # fmt: skip
    y = {"field": "name", "type": "nominal", "sort": [row["name"] for row in rows],
         "axis": axis(None, labelLimit=280, domain=False, ticks=False, grid=True,
                      labelFontSize=11)}  # fmt: skip
    kinds = {"field": "kind", "type": "nominal",
             "legend": {"title": None, "orient": "top", "direction": "horizontal"}}  # fmt: skip
    color = {**kinds, "scale": {"domain": ["estimator", "baseline"],
                                "range": [colour("expert"), colour("merge")]}}  # fmt: skip
    shape = {**kinds, "scale": {"domain": ["estimator", "baseline"], "range": ["circle", "diamond"]}}
    spec: Spec = {
        "width": WIDTH,
        "height": ROW * len(rows),
        "layer": interval_layers(rows, [0], x=x, y=y, color=color, shape=shape, width=WIDTH),
    }
    return titled_svg(
        spec, title, "Line: 95 % bootstrap interval over targets. 0: an order that is drawn."
    )


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
