"""The picture of a rewarded soup: every mixture by two rewards, the Pareto front as a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.merging.soup import RewardedSoups
from taskloom.runs.report import theme
from taskloom.runs.report.drawing import Palette, check_picture, save_chart
from taskloom.runs.report.style import Spec, axis, config, fixed


def front_chart(soups: RewardedSoups, *, x: str | None = None, y: str | None = None) -> Spec:
    """Return a vega-lite specification of all mixtures over two rewards, single experts by name.

    With more rewards than two, what is on the front can lie anywhere in a picture of two of them.

    Parameters
    ----------
    x, y
        Names of rewards; the first two if None.

    Raises
    ------
    PlanError
        Fewer than two rewards, or a name that was not scored.
    """
    if len(soups.rewards) < 2:
        raise PlanError("a front is drawn over two rewards, and there is one", hint="Score another")
    across, up = x or soups.rewards[0], y or soups.rewards[1]
    for name in (across, up):
        if name not in soups.rewards:
            raise PlanError(f"there is no reward {name!r}; there are {', '.join(soups.rewards)}")
    first, second = soups.rewards.index(across), soups.rewards.index(up)
    rows: list[dict[str, Any]] = [
        {
            "x": mixture.rewards[first],
            "y": mixture.rewards[second],
            "kind": "on the front" if mixture.on_front else "beaten",
            "weights": ", ".join(
                f"{name} {weight:g}" for name, weight in zip(soups.experts, mixture.weights, strict=True)
            ),
            "alone": dict(zip(mixture.weights, soups.experts, strict=True)).get(1.0),
        }
        for mixture in soups.mixtures
    ]
    middle = (min(row["x"] for row in rows) + max(row["x"] for row in rows)) / 2
    encoding: Spec = {
        "x": {
            "field": "x",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis(across, grid=True),
        },
        "y": {
            "field": "y",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis(up, grid=True),
        },
    }
    kinds = ["on the front", "beaten"]
    colours = {"domain": kinds, "range": [theme.colour("merge"), theme.colour("faint")]}
    shapes = {"domain": kinds, "range": ["diamond", "circle"]}
    legend = {"title": None, "orient": "top"}
    line: Spec = {
        "transform": [{"filter": {"field": "kind", "equal": kinds[0]}}],
        "mark": {"type": "line", "color": theme.colour("merge"), "strokeWidth": 1.5},
        "encoding": {"order": {"field": "x", "type": "quantitative"}},
    }
    layers: list[Spec] = [
        *([line] if len(soups.rewards) == 2 else []),  # seen from one side, a surface is no line
        {
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
            "encoding": {
                "color": {"field": "kind", "type": "nominal", "scale": colours, "legend": legend},
                "shape": {"field": "kind", "type": "nominal", "scale": shapes, "legend": legend},
                "tooltip": [
                    {"field": "weights", "title": "Weights", "type": "nominal"},
                    {"field": "x", "title": across, "type": "quantitative"},
                    {"field": "y", "title": up, "type": "quantitative"},
                ],
            },
        },
        _names(f"datum.x <= {middle!r}", "left", 8),
        _names(f"datum.x > {middle!r}", "right", -8),
    ]
    return {
        **fixed(rows),
        "width": 480,
        "height": 320,
        "encoding": encoding,
        "layer": layers,
        "config": config(),
    }


def _names(where: str, align: str, dx: int) -> Spec:
    """Name the experts on one side of the chart, towards its middle."""
    return {
        "transform": [{"filter": f"datum.alone != null && {where}"}],
        "mark": {"type": "text", "align": align, "baseline": "bottom", "dx": dx, "dy": -4, "limit": 120},
        "encoding": {"text": {"field": "alone", "type": "nominal"}},
    }


def save_front(
    soups: RewardedSoups,
    path: str | os.PathLike[str],
    *,
    palette: Palette = "light",
    **rewards: str | None,
) -> Path:
    """Draw `front_chart` into a PNG or SVG file, by the suffix of its name.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    PlanError, OutputError
        As `front_chart`; another suffix; a file that cannot be written.
    """
    target = check_picture(path)
    return save_chart(front_chart(soups, **rewards), target, palette=palette)
