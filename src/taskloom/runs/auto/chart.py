"""The picture of a climb: every member's score rung by rung, with what was taken in colour."""

from __future__ import annotations

from typing import Any

from taskloom.runs.auto.report import AutoReport
from taskloom.runs.report import theme
from taskloom.runs.report.style import Spec, axis, config, fixed

_SERIES = ("handed over", "base", "tried")


def climb_chart(report: AutoReport) -> Spec:
    """Return a vega-lite specification.

    Across the rungs, up the score on each rung's examples. A line ends where its member was dropped;
    what is handed over has its 95 % interval.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "series": _series(row.name, report),
            "rung": _label(point.share, point.n),
            "order": point.rung,
            "value": point.value,
            "low": point.low,
            "high": point.high,
            "n": point.n,
        }
        for row in report.rows
        for point in row.points
    ]
    x: Spec = {
        "field": "rung",
        "type": "ordinal",
        "sort": {"field": "order", "op": "min"},
        "axis": axis("share of the examples", labelAngle=0),
    }
    y: Spec = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False, "nice": True},
        "axis": axis(_title(report), grid=True),
    }
    colour: Spec = {
        "field": "series",
        "type": "nominal",
        "scale": {
            "domain": list(_SERIES),
            "range": [theme.colour(name) for name in ("merge", "base", "faint")],
        },
        "legend": {"title": None, "orient": "top"},
    }
    shape: Spec = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(_SERIES), "range": ["triangle-up", "circle", "square"]},
        "legend": {"title": None, "orient": "top"},
    }
    tip = [
        {"field": "name", "title": "Model", "type": "nominal"},
        {"field": "value", "title": "Score", "type": "quantitative", "format": ".3f"},
        {"field": "n", "title": "Examples", "type": "quantitative"},
    ]
    detail: Spec = {"field": "name", "type": "nominal"}
    both = {"x": x, "y": y}
    taken = [{"filter": {"field": "series", "equal": _SERIES[0]}}]
    return {
        **fixed(rows),
        "width": 480,
        "height": 320,
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {**both, "color": colour, "detail": detail},
            },
            {
                "transform": taken,
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                    "color": {"value": theme.colour("merge")},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 44, "opacity": 1},
                "encoding": {**both, "color": colour, "shape": shape, "detail": detail, "tooltip": tip},
            },
        ],
        "config": config(),
    }


def _series(name: str, report: AutoReport) -> str:
    if name == report.winner:
        return _SERIES[0]
    return _SERIES[1] if name == "base" else _SERIES[2]


def _label(share: float, n: int) -> str:
    return f"{100 * share:.0f} % (n = {n})"


def _title(report: AutoReport) -> str:
    return "surety" if report.regime == "unlabeled" else report.metric.replace("_", " ")
