"""The report's charts as vega-lite specifications.

Names of models and tasks enter a specification as data or as plain lists of strings, never inside
an expression. Colours are CSS variables (see ``theme``). Kinds differ in shape as well as colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.merging.soup import Mixture, RewardedSoups
from taskloom.runs.report import tables, words
from taskloom.runs.report.heatmaps import cosine_chart, merge_gain_chart, transfer_chart
from taskloom.runs.report.index import Index
from taskloom.runs.report.style import FIT, Spec, axis, config, fixed
from taskloom.runs.report.theme import colour
from taskloom.runs.result import FrontRecord, RankingRecord, SweepPoint

KINDS = ["base", "expert", "merge"]
SHAPES = ["circle", "diamond", "triangle-up"]
SERIES = ["base", "expert of the task", "other expert", "merge"]
STAR = (
    "M0,-1L0.28,-0.38L0.95,-0.31L0.45,0.15L0.59,0.81L0,0.47"
    "L-0.59,0.81L-0.45,0.15L-0.95,-0.31L-0.28,-0.38Z"
)


@dataclass(frozen=True)
class Figure:
    """One chart with its words and the numbers behind it."""

    key: str  # unique on the page, and the picture's file name
    title: str
    caption: str
    description: str  # what a screen reader says instead of the picture
    spec: Spec
    table: tables.Table | None
    small: bool = False  # one of several side by side
    group: str = ""  # what the small ones belong to
    heading: str = ""  # shorter title where the page has said the rest


def figures(index: Index) -> dict[str, list[Figure]]:
    """Return every chart the result has data for, by section of the report."""
    return {
        "leaderboard": _present(leaderboard(index)),
        "tasks": _present(per_task(index)),
        "merges": _present(_figure("merge-gains", merge_gain_chart(index))),
        "transfer": _present(_figure("transfer", transfer_chart(index))),
        "cosines": _present(_figure("cosines", cosine_chart(index))),
        "sweeps": [*sweeps(index), *fronts(index)],
        "rankings": rankings(index),
    }


def leaderboard(index: Index) -> Figure | None:
    """Draw each model's mean test score with its 95 % interval, best on top."""
    if not index.ranked:
        return None
    rows: list[dict[str, Any]] = [
        {
            "model": index.label(model.name),
            "kind": model.kind,
            "value": 100 * mean.value,
            "low": 100 * mean.low,
            "high": 100 * mean.high,
            "shown": words.points(mean.value, mean.n),
            "interval": words.interval(mean.low, mean.high, mean.n),
            "n": mean.n,
        }
        for model, mean in index.ranked
    ]
    y = {
        "field": "model",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": [row["model"] for row in rows]},
        "axis": axis(None, grid=True, labelLimit=190, domain=False, ticks=False),
    }
    x = {"type": "quantitative", "scale": {"zero": False, "nice": True, "padding": 14}}
    kind: Spec = {
        "color": _scale("kind", KINDS, [colour(kind) for kind in KINDS]),
        "tooltip": _tooltip(model="Model", kind="Kind", shown="Mean, points", interval="95 % interval",
                            n="n"),
    }  # fmt: skip
    bottom = axis("mean test score, points", tickCount=7, labelOverlap=True)
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.75, "aria": False},
            "encoding": {
                "x": {**x, "field": "low", "axis": bottom},
                "x2": {"field": "high"},
                **kind,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 95, "opacity": 1},
            "encoding": {
                "x": {**x, "field": "value"},
                "shape": _scale("kind", KINDS, SHAPES),
                **kind,
            },
        },
        {
            "mark": {"type": "text", "dy": -9, "fontSize": 10.5, "aria": False,
                     "color": colour("ink-2")},
            "encoding": {"x": {**x, "field": "value"}, "text": {"field": "shown"}},
        },
    ]  # fmt: skip
    model, mean = index.ranked[0]
    total = len(index.pool_tasks)
    spec = _spec(rows, layers, {"y": y}, width=FIT, height=31 * len(rows))
    return Figure(
        key="leaderboard",
        title=f"Mean test score over {words.count(total, 'pool task')}",
        caption=(
            f"Marks are means over {words.count(total, 'task')}, lines their 95 % intervals "
            "(task intervals added as independent). Test order does not decide: the guard does, on "
            "validation."
        ),
        description=(
            f"Leaderboard of {words.count(len(rows), 'model')}. {index.label(model.name)} leads with "
            f"{words.points(mean.value, mean.n)} points, 95 % interval "
            f"{words.interval(mean.low, mean.high, mean.n)}, n = {mean.n}."
        ),
        spec=spec,
        table=tables.leaderboard(index),
    )


def per_task(index: Index) -> Figure | None:
    """Draw every model's test score on every task: base, own expert, other experts, merges."""
    rows: list[dict[str, Any]] = [
        {
            "task": index.task_label(task.name),
            "model": index.label(model.name),
            "series": _series(model.kind, own=model.task == task.name),
            "value": 100 * score.value,
            "shown": words.points(score.value, score.n),
            "interval": words.interval(score.low, score.high, score.n),
            "n": score.n,
        }
        for task in index.scored_tasks()
        for model in index.result.models
        if (score := index.score(model.name, task.name)) is not None
    ]
    if not rows:
        return None
    sizes = dict(zip(SERIES, (120, 120, 45, 60), strict=True))
    for row in rows:
        row["size"] = sizes[row["series"]]
    order = {series: place for place, series in enumerate([SERIES[2], SERIES[3], SERIES[1], SERIES[0]])}
    rows.sort(key=lambda row: order[row["series"]])  # drawn last lies on top
    hues = [colour("base"), colour("expert"), colour("faint"), colour("merge")]
    encoding: dict[str, Any] = {
        "y": {
            "field": "task",
            "type": "nominal",
            "sort": None,
            "scale": {"domain": [index.task_label(task.name) for task in index.scored_tasks()]},
            "axis": axis(None, grid=True, labelLimit=170, domain=False, ticks=False),
        },
        "x": {
            "field": "value",
            "type": "quantitative",
            "scale": {"zero": False, "nice": True},
            "axis": axis("test score, points", tickCount=8, labelOverlap=True),
        },
        "color": _scale("series", SERIES, hues),
        "shape": _scale("series", SERIES, ["circle", "diamond", "stroke", "triangle-up"]),
        "size": {"field": "size", "type": "quantitative", "scale": None, "legend": None},
        "tooltip": _tooltip(task="Task", model="Model", shown="Score, points",
                            interval="95 % interval", n="n"),
    }  # fmt: skip
    legend = {"title": None, "orient": "top", "columns": 2, "symbolSize": 90, "symbolStrokeWidth": 2}
    encoding["color"]["legend"] = legend
    encoding["shape"]["legend"] = legend
    mark = {"type": "point", "filled": False, "strokeWidth": 2, "opacity": 1}
    spec = _spec(rows, [{"mark": mark}], encoding, width=FIT, height=40 * len(index.scored_tasks()))
    return Figure(
        key="tasks",
        title="Each task: merges against the base and the task's own expert",
        caption=(
            "A merge left of the circle is worse than the base on that task; right of the diamond it "
            "beats the task's own expert. Targets have no expert of their own."
        ),
        description=(
            f"Test scores of {words.count(len(index.result.models), 'model')} on "
            f"{words.count(len(index.scored_tasks()), 'task')}, one line a task. The table below "
            "holds every number with its interval."
        ),
        spec=spec,
        table=tables.per_task(index),
    )


def sweeps(index: Index) -> list[Figure]:
    """Draw validation against each swept option; the chosen setting is a star."""
    points = [p for p in index.result.sweeps if all(map(math.isfinite, (p.value, p.low, p.high)))]
    if not points:
        return []
    domain = [100 * min(p.low for p in points), 100 * max(p.high for p in points)]
    groups: dict[tuple[str, str], list[SweepPoint]] = {}
    for point in points:
        groups.setdefault((point.method, point.option), []).append(point)
    return [_sweep(index, i, group, domain) for i, group in enumerate(groups.values())]


def fronts(index: Index) -> list[Figure]:
    """Draw every mixture of a rewarded soup over the first two rewards."""
    return [_front(index, number, record) for number, record in enumerate(index.result.fronts)]


def _front(index: Index, number: int, record: FrontRecord) -> Figure:
    from taskloom.runs.front import front_chart

    mixtures = [Mixture(tuple(m.weights), tuple(m.rewards), m.on_front) for m in record.mixtures]
    drawn = front_chart(RewardedSoups(tuple(record.experts), tuple(record.rewards), tuple(mixtures)))
    (chosen,) = [m for m in record.mixtures if m.chosen]
    weights = zip(record.experts, chosen.weights, strict=True)
    said = ", ".join(f"{name} {weight:g}" for name, weight in weights if weight)
    best = words.count(sum(m.on_front for m in mixtures), "mixture")
    first, second = record.rewards[:2]
    return Figure(
        key=f"front-{number}",
        title=f"{index.label(record.method)}: the front",
        caption=f"{best} of {len(mixtures)} on the front; chosen: {said}.",
        description=f"Validation scores of mixtures on {second} against {first}; chosen: {said}.",
        spec={**drawn, "width": FIT, "height": 190},
        table=tables.front(index, record),
        small=True,
    )


def rankings(index: Index) -> list[Figure]:
    """Draw the truth against each score's rank, one small chart a target and score."""
    found = [_ranking(index, number, record) for number, record in enumerate(index.result.rankings)]
    return [figure for figure in found if figure is not None]


def _sweep(index: Index, number: int, points: Sequence[SweepPoint], domain: list[float]) -> Figure:
    points = sorted(points, key=lambda p: p.setting)
    rows: list[dict[str, Any]] = [
        {
            "setting": p.setting,
            "value": 100 * p.value,
            "low": 100 * p.low,
            "high": 100 * p.high,
            "chosen": p.chosen,
            "label": f"chosen: {p.setting:g}",
            "shown": words.points(p.value, p.n),
            "interval": words.interval(p.low, p.high, p.n),
        }
        for p in points
    ]
    first = points[0]
    hue = colour("merge")
    y = {"type": "quantitative", "scale": {"domain": domain, "nice": True, "zero": False}}
    picked = [{"filter": {"field": "chosen", "equal": True}}]
    tooltip = _tooltip(setting="Setting", shown="Mean, points", interval="95 % interval")
    layers: list[Spec] = [
        {"mark": {"type": "area", "opacity": 0.16, "color": hue, "aria": False},
         "encoding": {"y": {**y, "field": "low", "axis": axis("validation, points", grid=True)},
                      "y2": {"field": "high"}}},
        {"mark": {"type": "line", "color": hue, "strokeWidth": 2, "aria": False},
         "encoding": {"y": {**y, "field": "value"}}},
        {"mark": {"type": "point", "filled": True, "size": 34, "color": hue, "opacity": 1},
         "encoding": {"y": {**y, "field": "value"}, "tooltip": tooltip}},
        {"transform": picked,
         "mark": {"type": "point", "shape": STAR, "filled": True, "size": 620, "opacity": 1,
                  "color": colour("ink"), "stroke": colour("card"), "strokeWidth": 1.5},
         "encoding": {"y": {**y, "field": "value"}, "tooltip": tooltip}},
    ]  # fmt: skip
    x = {
        "field": "setting",
        "type": "quantitative",
        "scale": {"padding": 14, "nice": False, "zero": False},
        "axis": axis(first.option, tickCount=6),
    }
    chosen = next((p for p in points if p.chosen), None)
    title = f"{index.label(first.method)}: {first.option}"
    said = (
        f"chosen {chosen.setting:g} with {words.points(chosen.value, chosen.n)} points"
        if chosen
        else "no setting was chosen"
    )
    return Figure(
        key=f"sweep-{number}",
        title=title,
        caption=f"{said[0].upper()}{said[1:]} (★), n = {first.n:,}",
        description=f"Validation mean against {title}, {words.count(len(rows), 'setting')}; {said}.",
        spec=_spec(rows, layers, {"x": x}, width=FIT, height=190),
        table=tables.sweep(index, points),
        small=True,
    )


def _ranking(index: Index, number: int, record: RankingRecord) -> Figure | None:
    found = [(e, s) for e in record.entries if (s := index.score(e.expert, record.target))]
    if not found:
        return None
    best = max(s.value for _, s in found)
    rows: list[dict[str, Any]] = [
        {
            "rank": entry.rank,
            "expert": index.label(entry.expert),
            "value": 100 * score.value,
            "low": 100 * score.low,
            "high": 100 * score.high,
            "series": (
                "first choice" if entry.rank == 1 else "truly best" if score.value == best else "other"
            ),
            "shown": words.points(score.value, score.n),
            "interval": words.interval(score.low, score.high, score.n),
            "score": words.significant(entry.score),
        }
        for entry, score in found
    ]
    hits = any(row["rank"] == 1 and row["value"] == 100 * best for row in rows)
    names = ["first choice", "truly best", "other"]
    hues = [colour("merge"), colour("expert"), colour("faint")]
    sizes = dict(zip(names, (560, 110, 60), strict=True))
    for row in rows:
        row["size"] = sizes[row["series"]]
    color = {**_scale("series", names, hues), "legend": None}
    x = {
        "field": "rank",
        "type": "quantitative",
        "scale": {"domain": [0.5, max(e.rank for e in record.entries) + 0.5], "nice": False},
        "axis": axis("rank by the score", tickMinStep=1, format="d"),
    }
    y = {"type": "quantitative", "scale": {"zero": False, "nice": True}}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "opacity": 0.55, "aria": False},
         "encoding": {"y": {**y, "field": "low", "axis": axis("test, points", grid=True)},
                      "y2": {"field": "high"}, "color": color}},
        {"mark": {"type": "point", "filled": True, "opacity": 1},
         "encoding": {"y": {**y, "field": "value"}, "color": color,
                      "shape": {**_scale("series", names, [STAR, "diamond", "circle"]), "legend": None},
                      "size": {"field": "size", "type": "quantitative", "scale": None,
                               "legend": None},
                      "tooltip": _tooltip(expert="Expert", rank="Rank", score="Score",
                                          shown="Test, points", interval="95 % interval")}},
    ]  # fmt: skip
    target = index.task_label(record.target)
    n = found[0][1].n
    regret = words.points(record.regret_at_1, n)
    verdict = (
        "Its first choice (★) is the best source."
        if hits
        else f"Its first choice (★) costs {regret} points against the best source (◆)."
    )
    tau = words.decimal(record.weighted_tau)
    return Figure(
        key=f"ranking-{number}",
        title=f"{record.score} for {target}",
        caption=f"Weighted tau {tau}, n = {n}. {verdict}",
        description=(
            f"Test score of each expert on {target} against its rank by {record.score}. "
            f"Weighted tau {tau}. {verdict}"
        ),
        spec=_spec(rows, layers, {"x": x}, width=FIT, height=180),
        table=None,  # one table a target holds all scores
        small=True,
        group=record.target,
        heading=record.score,
    )


def _figure(key: str, chart: tuple[str, str, str, Spec, tables.Table] | None) -> Figure | None:
    if chart is None:
        return None
    title, caption, description, spec, table = chart
    return Figure(key, title, caption, description, spec, table)


def _present(figure: Figure | None) -> list[Figure]:
    return [] if figure is None else [figure]


def _series(kind: str, *, own: bool) -> str:
    if kind == "expert":
        return SERIES[1] if own else SERIES[2]
    return SERIES[0] if kind == "base" else SERIES[3]


def _scale(field: str, domain: list[str], values: list[str]) -> dict[str, Any]:
    legend = {"title": None, "orient": "top", "symbolSize": 90}
    return {"field": field, "type": "nominal", "legend": legend,
            "scale": {"domain": domain, "range": values}}  # fmt: skip


def _tooltip(**titles: str) -> list[dict[str, str]]:
    return [{"field": field, "title": title, "type": "nominal"} for field, title in titles.items()]


def _spec(rows: list[dict[str, Any]], layers: list[Spec], encoding: Spec, **layout: Any) -> Spec:
    return {
        **fixed(rows),
        **layout,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "encoding": encoding,
        "layer": layers,
        "config": config(),
    }
