"""The way a fit took: as JSON or CSV, and as a picture."""

from __future__ import annotations

from pathlib import Path

from taskloom.errors import PlanError
from taskloom.learn.fitted import Fitted
from taskloom.runs.report import theme
from taskloom.runs.report.drawing import Palette, check_picture, save_chart
from taskloom.runs.report.style import Spec, axis, config, fixed
from taskloom.runs.search_chart import is_search, search_chart
from taskloom.store.atomic import atomic_file, write_json

_MEAN = "mean "


def check_suffixes(picture: str | Path | None, trace: str | Path | None = None) -> None:
    """Refuse names of files whose suffix says nothing of what is wanted.

    Raises
    ------
    PlanError
        A picture that is neither ``.png`` nor ``.svg``, a trace that is neither ``.json`` nor ``.csv``.
    """
    for path, suffixes in ((picture, (".png", ".svg")), (trace, (".json", ".csv"))):
        if path is not None and Path(path).suffix not in suffixes:
            raise PlanError(
                f"{path}: expected a name that ends with {' or '.join(suffixes)}", hint="Rename it"
            )


def save_trace(fitted: Fitted, path: str | Path) -> Path:
    """Write recipe, provenance and trace as ``.json``, or the trace alone as ``.csv``.

    Raises
    ------
    PlanError, OutputError
        Another suffix; a file that cannot be written.
    """
    check_suffixes(None, path)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".json":
        write_json(target, fitted.plain())
        return target
    with atomic_file(target) as temporary:
        temporary.write_text(fitted.csv(), encoding="utf-8")
    return target


def trace_chart(fitted: Fitted, *, x: str | None = None, y: str | None = None) -> Spec:
    """Return a vega-lite specification: the loss by step, and below it what else was measured.

    The lower panel has the mean coefficient of every expert, where the trace tells them. A search is
    drawn as `taskloom.runs.search_chart.search_chart` says, its front over the tasks ``x`` and ``y``.

    Raises
    ------
    PlanError
        The trace is empty; axes of what is no search, or that are no two tasks of it.
    """
    if not fitted.trace:
        raise PlanError("there is no step to draw", hint="Take one step or more")
    if is_search(fitted):
        return search_chart(fitted, x=x, y=y)
    if x or y:
        raise PlanError("what is no search has no front to draw", hint="Leave x and y out")
    loss = [{"step": s.step, "value": s.loss, "of": "loss", "panel": "loss"} for s in fitted.trace]
    means = [
        {"step": s.step, "value": v, "of": name.removeprefix(_MEAN), "panel": "mean"}
        for s in fitted.trace
        for name, v in s.values.items()
        if name.startswith(_MEAN)
    ]
    panels = [_panel("loss", fitted.said.get("objective", "loss"), 200, legend=False)]
    if means:
        panels.append(_panel("mean", "mean coefficient", 160, legend=True))
    return {**fixed(loss + means), "vconcat": panels, "config": config()}


def _panel(panel: str, title: str, height: int, *, legend: bool) -> Spec:
    colour: Spec = (
        {"field": "of", "type": "nominal", "legend": {"title": None, "orient": "right"}}
        if legend
        else {"value": theme.colour("merge")}
    )
    return {
        "transform": [{"filter": {"field": "panel", "equal": panel}}],
        "width": 480,
        "height": height,
        "mark": {"type": "line", "strokeWidth": 1.5, "point": {"size": 12}},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": axis("step")},
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": {"zero": False, "nice": True},
                "axis": axis(title, grid=True),
            },
            "color": colour,
            "tooltip": [
                {"field": "of", "type": "nominal"},
                {"field": "step", "type": "quantitative"},
                {"field": "value", "type": "quantitative"},
            ],
        },
    }


def save_trace_picture(
    fitted: Fitted,
    path: str | Path,
    *,
    palette: Palette = "light",
    x: str | None = None,
    y: str | None = None,
) -> Path:
    """Draw `trace_chart` into a PNG or SVG file, by the suffix of its name.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    PlanError, OutputError
        As `trace_chart`; another suffix; a file that cannot be written.
    """
    target = check_picture(path)
    return save_chart(trace_chart(fitted, x=x, y=y), target, palette=palette)
