"""The ledger's pictures as SVG: every method with its interval, and how methods bear growing pools.

Colours and fonts are those of the report in light. Kinds of verdicts differ in shape as well as in
colour, kinds of experts in the dashes of their lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from taskloom.runs.claims.claim import FAMILIES, records
from taskloom.runs.claims.learned import known
from taskloom.runs.claims.ledger import Ledger, Measurement
from taskloom.runs.claims.measures import EXPERT, Scope
from taskloom.runs.claims.verdict import Word
from taskloom.runs.report.drawing import titled_svg
from taskloom.runs.report.intervals import interval_layers
from taskloom.runs.report.style import Spec, axis
from taskloom.runs.report.theme import colour

#: verdict as the picture says it -> colour and shape
MARKS: dict[str, tuple[str, str]] = {
    "claim holds": ("good", "circle"),
    "does not hold here": ("bad", "triangle-down"),
    "not decided here": ("base", "diamond"),
    "no claim to check": ("faint", "square"),
}
_WORDS: dict[Word, str] = {
    "holds": "claim holds",
    "does not hold here": "does not hold here",
    "not decided here": "not decided here",
}
_WORST = ["does not hold here", "not decided here", "claim holds"]
#: what growing pools are compared with in every panel
REFERENCE = "task_arithmetic"
ROW, COLUMN, PANEL, SMALL, ACROSS = 15, 178, 48, (128, 74), 7
Yield = Literal["accuracy", "seconds"]


def overview(ledger: Ledger) -> str:
    """Draw the normalised accuracy of every method in the largest pools, one panel a suite and kind."""
    order = _order(ledger)
    panels = [_panel(ledger, scope, order, first=not n) for n, scope in enumerate(ledger.scopes)]
    legend = "Line: 95 % interval over seeds and tasks. Numbers: mean. Dashes: the base, the experts."
    return titled_svg(
        {
            "hconcat": panels,
            "spacing": PANEL,
            "resolve": {"scale": {"color": "shared", "shape": "shared"}},
        },
        "Normalised accuracy: test accuracy by that of the task's own expert, %",
        legend,
    )


def scaling(ledger: Ledger, of: Yield = "accuracy") -> str:
    """Draw normalised accuracy, or seconds, against the number of tasks: a small panel a method."""
    names = [name for name in _by_family() if any(ledger.curve(name, s) for s in ledger.scopes)]
    scopes = {_label(scope): scope for scope in ledger.scopes}
    reference = [
        {**point, "label": "", "pale": True}
        for label, scope in scopes.items()
        for point in _points(ledger.curve(REFERENCE, scope), label, of)
    ]
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += [{**point, "method": name, "line": f"{point['suite']} ref"} for point in reference]
        for label, scope in scopes.items():
            for point in _points(ledger.curve(name, scope), label, of):
                rows.append({**point, "method": name, "line": label})
    title = "Normalised accuracy, %" if of == "accuracy" else "Seconds of one merge in memory"
    return titled_svg(
        {"data": {"values": rows}, **_multiples(rows, names, scopes, of)},
        f"{title}, against the number of tasks merged",
        f"Pale: {REFERENCE}. "
        + (
            "Mean over seeds and tasks; points below the frame are drawn on its edge."
            if of == "accuracy"
            else "Mean over seeds; logarithmic."
        ),
    )


# --- overview ---------------------------------------------------------------------------------


def _order(ledger: Ledger) -> list[str]:
    """Return the methods that have a number anywhere, best mean over all kinds and suites first."""
    found: dict[str, list[float]] = {}
    for scope in ledger.scopes:
        for each in ledger.measurements(scope):
            if each.normalised is not None and each.method != EXPERT:
                found.setdefault(each.method, []).append(each.normalised.value)
    return sorted(found, key=lambda name: (-sum(found[name]) / len(found[name]), name))


def _panel(ledger: Ledger, scope: Scope, order: list[str], *, first: bool) -> Spec:
    rows = [
        row
        for each in ledger.measurements(scope)
        if each.method in order and (row := _dot(ledger, each)) is not None
    ]
    low = min(row["value"] for row in rows) - 3
    high = max([100.0, *(min(row["high"], row["value"] + 12) for row in rows)]) + 1
    limits = {"domain": [low, high], "nice": False, "clamp": True, "zero": False}
    x = {"type": "quantitative", "scale": limits, "axis": axis(None, tickCount=5, grid=True)}
    base = [row["value"] for row in rows if row["method"] == "base"]
    y = {
        "field": "method",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": order},
        "axis": axis(None, labelLimit=170, domain=False, ticks=False, grid=True, labels=first,
                     labelFontSize=11),
    }  # fmt: skip
    hues = [colour(hue) for hue, _ in MARKS.values()]
    color = {
        "field": "verdict",
        "type": "nominal",
        "scale": {"domain": [*MARKS], "range": hues},
        "legend": {"title": None, "orient": "top", "direction": "horizontal"} if first else None,
    }
    shape = {**color, "scale": {"domain": [*MARKS], "range": [s for _, s in MARKS.values()]}}
    return {
        "title": {"text": f"{scope.suite}, {scope.experts} experts, {scope.count} tasks", "fontSize": 12,
                  "anchor": "start", "frame": "group", "fontWeight": "normal", "offset": 6},
        "width": COLUMN,
        "height": ROW * len(order),
        "layer": interval_layers(rows, [100.0, *base], x=x, y=y, color=color, shape=shape, width=COLUMN),
    }  # fmt: skip


def _dot(ledger: Ledger, found: Measurement) -> dict[str, Any] | None:
    mean = found.normalised
    if mean is None:
        return None
    return {
        "method": found.method,
        "verdict": _verdict(ledger, found),
        "value": 100 * mean.value,
        "low": 100 * (mean.value if mean.low is None else mean.low),
        "high": 100 * (mean.value if mean.high is None else mean.high),
        "shown": f"{100 * mean.value:.1f}",
    }


def _verdict(ledger: Ledger, found: Measurement) -> str:
    """Return the worst verdict of a method's claims on one suite and kind of experts."""
    record = known(found.method)
    said = []
    for claim in record.claims if record is not None else []:
        verdict = ledger.by_suite(found.method, claim, found.scope.experts).get(found.scope.suite)
        if verdict is not None and verdict.word in _WORDS:
            said.append(_WORDS[verdict.word])
    return next((word for word in _WORST if word in said), "no claim to check")


# --- growing pools ----------------------------------------------------------------------------


def _by_family() -> list[str]:
    found = records()
    return sorted(found, key=lambda name: (FAMILIES.index(found[name].family), name))


def _label(scope: Scope) -> str:
    return f"{scope.suite}, {scope.experts}"


def _points(found: Iterable[Measurement], label: str, of: Yield) -> list[dict[str, Any]]:
    rows = []
    for each in found:
        mean = each.normalised
        value = each.seconds if of == "seconds" else None if mean is None else 100 * mean.value
        if value is not None and mean is not None:
            at = {"count": each.scope.count, "suite": label, "label": label, "pale": False}
            rows.append({**at, "value": max(value, 1e-3) if of == "seconds" else value})
    return rows


def _multiples(
    rows: list[dict[str, Any]], names: list[str], scopes: dict[str, Scope], of: Yield
) -> Spec:
    scale: Spec = {"type": "log"} if of == "seconds" else _frame(rows)
    ticks = {"values": [10.0**power for power in range(-3, 4)]} if of == "seconds" else {"tickCount": 4}
    counts = sorted({row["count"] for row in rows})
    suites = sorted({scope.suite for scope in scopes.values()})
    hues = [
        colour(("expert", "merge", "good", "bad")[suites.index(s.suite) % 4]) for s in scopes.values()
    ]
    dashes = [[1, 0] if scope.experts == "full" else [4, 3] for scope in scopes.values()]
    by_suite = {"field": "suite", "type": "nominal"}
    legend = {"title": None, "orient": "top", "direction": "horizontal", "symbolType": "stroke",
              "symbolSize": 300, "symbolStrokeWidth": 2}  # fmt: skip
    encoding = {
        "x": {"field": "count", "type": "quantitative",
              "scale": {"domain": [counts[0], counts[-1]], "nice": False, "padding": 6},
              "axis": axis(None, values=counts, labelFontSize=9, format="d")},
        "y": {"field": "value", "type": "quantitative", "scale": scale,
              "axis": axis(None, grid=True, labelFontSize=9, **ticks)},
        "color": {**by_suite, "scale": {"domain": [*scopes], "range": hues}, "legend": legend},
        "strokeDash": {**by_suite, "scale": {"domain": [*scopes], "range": dashes}, "legend": legend},
        "detail": {"field": "line"},
    }  # fmt: skip
    own = [{"filter": {"field": "pale", "equal": False}}]
    pale = [{"filter": {"field": "pale", "equal": True}}]
    dots = {key: value for key, value in encoding.items() if key != "strokeDash"}
    return {
        "facet": {"field": "method", "type": "nominal", "sort": names, "title": None,
                  "header": {"labelFontSize": 10.5, "labelPadding": 3, "labelColor": colour("ink")}},
        "columns": ACROSS,
        "spacing": {"row": 12, "column": 14},
        "spec": {
            "width": SMALL[0],
            "height": SMALL[1],
            "layer": [
                {"transform": pale,
                 "mark": {"type": "line", "strokeWidth": 2.2, "opacity": 0.25, "clip": True},
                 "encoding": encoding},
                {"transform": own, "mark": {"type": "line", "strokeWidth": 1.7, "clip": True},
                 "encoding": encoding},
                {"transform": own, "mark": {"type": "point", "filled": True, "size": 14, "opacity": 1},
                 "encoding": dots},
            ],
        },
    }  # fmt: skip


def _frame(rows: list[dict[str, Any]]) -> Spec:
    """Return a scale that leaves out the lowest few values, which would flatten all others."""
    values = sorted(row["value"] for row in rows if not row["pale"])
    low = values[len(values) // 25]
    top = max(values[-1], 100.0)
    return {"domain": [5 * (low // 5), top + 1], "nice": False, "clamp": True, "zero": False}
