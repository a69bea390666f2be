"""What all charts share: fonts, axes, sizes."""

from __future__ import annotations

from typing import Any

from taskloom.runs.report.theme import colour

Spec = dict[str, Any]

FIT = "container"  # as wide as the page lets it
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def fixed(rows: list[dict[str, Any]]) -> Spec:
    """Return the head of a specification: its language, inline data, and no background."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": None,
        "padding": 4,
        "data": {"values": rows},
    }


def axis(title: str | None, *, grid: bool = False, **more: Any) -> Spec:
    """Return an axis; grid lines only where they help to read across."""
    return {"title": title, "grid": grid, **more}


def config() -> Spec:
    """Return the look of all charts, in CSS variables."""
    ink, quiet, line = colour("ink"), colour("ink-2"), colour("line")
    return {
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": quiet,
            "titleColor": quiet,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "titleLimit": 220,
            "domainColor": line,
            "tickColor": line,
            "gridColor": colour("grid"),
            "labelPadding": 6,
        },
        "axisY": {"labelColor": ink},
        "legend": {
            "labelColor": ink,
            "labelFontSize": 12,
            "offset": 10,
            "columnPadding": 18,
            "labelLimit": 220,
            "symbolOpacity": 1,
        },
        "text": {"color": ink, "fontSize": 12},
    }
