"""The picture of a search: every candidate's loss, the best so far, and its front over two tasks."""

from __future__ import annotations

import math
from typing import Any

from taskloom.learn.fitted import Fitted
from taskloom.runs.fit_front import FRONT, LOSS, axes_of, tasks_of
from taskloom.runs.report import theme
from taskloom.runs.report.style import Spec, axis, config, fixed

_BEST = "best"


def is_search(fitted: Fitted) -> bool:
    """Tell whether a trace is that of a search: it knows the best so far."""
    return bool(fitted.trace) and all(_BEST in step.values for step in fitted.trace)


def search_chart(fitted: Fitted, *, x: str | None = None, y: str | None = None) -> Spec:
    """Return a vega-lite specification of a search's trace.

    Upper panel: loss by evaluation as points, the lowest so far as a line; candidates without a finite
    loss are not drawn. Lower panel, of two tasks or more: losses on two of them, with those that nothing
    beats on every task at once as diamonds.

    Parameters
    ----------
    x, y
        Tasks of the lower panel; see `taskloom.runs.fit_front.axes_of`.

    Raises
    ------
    PlanError
        As `taskloom.runs.fit_front.axes_of`.
    """
    rows: list[dict[str, Any]] = [
        {
            "step": step.step,
            "loss": _finite(step.loss),
            "best": _finite(step.values[_BEST]),
            "kind": "on the front" if step.values.get(FRONT) else "beaten",
            **{name: _finite(value) for name, value in step.values.items() if name.startswith(LOSS)},
        }
        for step in fitted.trace
    ]
    tasks = tasks_of(fitted.trace[0])
    panels = [_course(fitted.said.get("objective", "loss"))]
    if len(tasks) > 1 or x or y:
        across, up = axes_of(tasks, x, y)
        panels.append(_front(f"{LOSS}{across}", f"{LOSS}{up}"))
    apart = {"legend": {"color": "independent", "shape": "independent"}}
    return {**fixed(rows), "vconcat": panels, "resolve": apart, "config": config()}


def _course(title: str) -> Spec:
    x = {"field": "step", "type": "quantitative", "axis": axis("evaluation", tickMinStep=1)}

    def y(field: str) -> Spec:
        return {
            "field": field,
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis(title, grid=True),
        }

    best: Spec = {
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
        "encoding": {"x": x, "y": y("best"), "color": {"value": theme.colour("merge")}},
    }
    each: Spec = {
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.8},
        "encoding": {
            "x": x,
            "y": y("loss"),
            "color": {"value": theme.colour("faint")},
            "tooltip": [
                {"field": "step", "title": "Evaluation", "type": "quantitative"},
                {"field": "loss", "title": "Loss", "type": "quantitative"},
            ],
        },
    }
    return {"width": 480, "height": 220, "layer": [each, best]}


def _front(across: str, up: str) -> Spec:
    kinds = ["on the front", "beaten"]
    colours = {"domain": kinds, "range": [theme.colour("merge"), theme.colour("faint")]}
    shapes = {"domain": kinds, "range": ["diamond", "circle"]}
    legend = {"title": None, "orient": "top"}

    def place(field: str) -> Spec:
        return {
            "field": field.replace(".", "\\."),
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis(field, grid=True),
        }

    return {
        "width": 480,
        "height": 260,
        "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
        "encoding": {
            "x": place(across),
            "y": place(up),
            "color": {"field": "kind", "type": "nominal", "scale": colours, "legend": legend},
            "shape": {"field": "kind", "type": "nominal", "scale": shapes, "legend": legend},
            "tooltip": [{"field": "step", "title": "Evaluation", "type": "quantitative"}],
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
