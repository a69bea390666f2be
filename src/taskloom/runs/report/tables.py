"""The report's tables as plain data: one shape for all, so that one template macro draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taskloom.runs.report import words
from taskloom.runs.report.index import Index
from taskloom.runs.result import (
    FrontRecord,
    Matrix,
    ModelRecord,
    RankingRecord,
    ScoreRecord,
    SweepPoint,
)

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what it sorts by, and an optional second line."""

    text: str
    sort: float | str | None = None  # None sorts by the text
    note: str = ""
    kind: str = ""  # model kind: drawn with its shape
    code: bool = False
    tone: Tone = ""
    flag: str = ""  # a short word beside the text, e.g. "refused"


@dataclass(frozen=True)
class Column:
    """A column's heading; numeric ones are right-aligned."""

    title: str
    numeric: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table; the first cell of a row is its heading."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def model_cell(index: Index, name: str, *, flags: bool = False) -> Cell:
    """Return the cell that names a model, with its kind's shape and the guard's word on it."""
    model = index.models.get(name)
    kind = model.kind if model else ""
    if flags and name in index.refused:
        return Cell(index.label(name), kind=kind, flag="refused", tone="bad")
    if flags and name in index.winners:
        return Cell(index.label(name), kind=kind, flag="chosen", tone="good")
    return Cell(index.label(name), kind=kind)


def score_cell(score: ScoreRecord | None, *, mark: str = "", tone: Tone = "") -> Cell:
    """Return a score in points over its interval; a dash when there is none."""
    if score is None:
        return Cell(words.MISSING, sort=-1e9, tone="quiet")
    text = f"{mark} {words.points(score.value, score.n)}" if mark else words.points(score.value, score.n)
    return Cell(
        text,
        sort=score.value,
        note=words.interval(score.low, score.high, score.n),
        tone=tone,
    )


def leaderboard(index: Index) -> Table:
    """Return models by mean test score over the pool tasks."""
    rows = []
    for place, (model, mean) in enumerate(index.ranked, start=1):
        gains = [gain for gain in index.gains(model.name) if gain.task.role == "pool"]
        below = sum(gain.value < 0 for gain in gains)
        clearly = sum(gain.value < 0 and gain.clear for gain in gains)
        counted = model.kind != "base" and gains
        rows.append(
            (
                model_cell(index, model.name, flags=True),
                Cell(words.points(mean.value, mean.n), sort=mean.value),
                Cell(words.interval(mean.low, mean.high, mean.n), sort=mean.low),
                Cell(
                    f"{below} of {len(gains)}" if counted else words.MISSING,
                    sort=below if counted else -1,
                    note=f"{clearly} clearly" if counted and clearly else "",
                    tone="bad" if counted and clearly else "",
                ),
                Cell(str(place), sort=place),
                Cell(model.kind),
                Cell(str(mean.tasks), sort=mean.tasks),
                Cell(f"{mean.n:,}", sort=mean.n),
            )
        )
    columns = (
        Column("Model"),
        Column("Mean, points", numeric=True),
        Column("95 % interval", numeric=True),
        Column("Tasks below base", numeric=True),
        Column("Place", numeric=True),
        Column("Kind"),
        Column("Tasks", numeric=True),
        Column("n", numeric=True),
    )
    return Table("Mean test score over the pool tasks", columns, tuple(rows))


def per_task(index: Index) -> Table:
    """Return every model's test score on every task, with what is below the base marked."""
    tasks = index.scored_tasks()
    base = index.base.name if index.base else ""
    rows = []
    for model in _by_kind(index):
        cells = [model_cell(index, model.name, flags=True)]
        for task in tasks:
            own, floor = index.score(model.name, task.name), index.score(base, task.name)
            below = own is not None and floor is not None and own.value < floor.value
            clearly = below and own is not None and floor is not None and own.high < floor.low
            mark = "▼" if clearly else "▽" if below else ""
            if model.task == task.name and model.kind == "expert":
                mark = f"{mark}◆"
            cells.append(score_cell(own, mark=mark, tone="bad" if clearly else ""))
        rows.append(tuple(cells))
    columns = [Column("Model")]
    for task in tasks:
        sizes = {s.n for m in index.models if (s := index.score(m, task.name)) is not None}
        role = "target, " if task.role == "target" else ""
        n = f"n = {sizes.pop():,}" if len(sizes) == 1 else ""
        columns.append(
            Column(
                index.task_label(task.name), numeric=True, note=f"{role}{task.metric}, {n}".strip(", ")
            )
        )
    caption = (
        "Test score in points with its 95 % interval. "
        "◆ the expert's own task; ▽ below the base; ▼ below the base, intervals apart"
    )
    return Table(caption, tuple(columns), tuple(rows))


def harms(index: Index) -> Table:
    """Return the models that lose to the base somewhere, merges first: negative transfer."""
    rows = []
    for model in sorted(index.result.models, key=lambda m: m.kind != "merge"):
        gains = index.gains(model.name) if model.kind != "base" else []
        below = [gain for gain in gains if gain.value < 0]
        if not below:
            continue
        worst = min(below, key=lambda gain: gain.value)
        clearly = [gain for gain in below if gain.clear]
        names = words.listing([index.task_label(g.task.name) for g in clearly]) if clearly else "none"
        rows.append(
            (
                model_cell(index, model.name, flags=True),
                Cell(f"{len(below)} of {len(gains)}", sort=len(below)),
                Cell(str(len(clearly)), sort=len(clearly), tone="bad" if clearly else ""),
                Cell(
                    words.points(worst.value, worst.task.n_test, signed=True),
                    sort=worst.value,
                    note=index.task_label(worst.task.name),
                ),
                Cell(names),
            )
        )
    columns = (
        Column("Model"),
        Column("Tasks below base", numeric=True),
        Column("Clearly below", numeric=True, note="intervals apart"),
        Column("Worst loss, points", numeric=True),
        Column("Clearly below on"),
    )
    return Table(
        "Models whose test score is below the base; clearly: their two 95 % intervals do not overlap",
        columns,
        tuple(rows),
    )


def matrix(index: Index, source: Matrix, *, in_points: bool) -> Table:
    """Return a labelled matrix, in points or as plain numbers."""
    rows = []
    for name, values in zip(source.rows, source.values, strict=True):
        cells = [Cell(index.any_label(name))]
        for column, value in zip(source.columns, values, strict=True):
            task = index.tasks.get(column)
            n = task.n_test if task else None
            text = words.points(value, n, signed=True) if in_points else words.decimal(value)
            cells.append(Cell(text, sort=-1e9 if text == words.MISSING else value))
        rows.append(tuple(cells))
    heading = f"{source.row_label} / {source.column_label}"
    columns = [Column(index.any_label(name), numeric=True) for name in source.columns]
    return Table(source.title, (Column(heading), *columns), tuple(rows))


def sweep(index: Index, points: Sequence[SweepPoint]) -> Table:
    """Return the settings of one option that were tried on validation."""
    first = points[0]
    rows = tuple(
        (
            Cell(f"{p.setting:g}", sort=p.setting, flag="chosen" if p.chosen else "",
                 tone="good" if p.chosen else ""),
            Cell(words.points(p.value, p.n), sort=p.value),
            Cell(words.interval(p.low, p.high, p.n), sort=p.low),
            Cell(f"{p.n:,}", sort=p.n),
        )
        for p in points
    )  # fmt: skip
    columns = (
        Column(first.option),
        Column("Mean, points", numeric=True),
        Column("95 % interval", numeric=True),
        Column("n", numeric=True),
    )
    return Table(f"{index.label(first.method)}: {first.option} on validation", columns, rows)


def front(index: Index, record: FrontRecord) -> Table:
    """Return the mixtures on the front of a rewarded soup, and the one that was chosen."""
    rows = tuple(
        (
            Cell(
                ", ".join(f"{n} {w:g}" for n, w in zip(record.experts, m.weights, strict=True) if w),
                flag="chosen" if m.chosen else "",
                tone="good" if m.chosen else "",
            ),
            *(
                Cell(words.points(value, n), sort=value, note=words.interval(low, high, n))
                for value, low, high, n in zip(m.rewards, m.low, m.high, m.n, strict=True)
            ),
        )
        for m in record.mixtures
        if m.on_front or m.chosen
    )
    columns = (Column("Mixture"), *(Column(index.any_label(r), numeric=True) for r in record.rewards))
    return Table(f"{index.label(record.method)}: the front on validation", columns, rows)


def ranking(index: Index, target: str, rankings: Sequence[RankingRecord]) -> Table:
    """Return the experts of one target by truth, with each score's rank beside it."""
    names = list(dict.fromkeys(e.expert for record in rankings for e in record.entries))
    found = {name: index.score(name, target) for name in names}
    order = sorted(names, key=lambda name: -(s.value if (s := found[name]) else -1e9))
    places = [{e.expert: e for e in record.entries} for record in rankings]
    rows = []
    for place, name in enumerate(order, start=1):
        known = found[name] is not None
        cells = [
            model_cell(index, name),
            Cell(str(place) if known else words.MISSING, sort=place if known else 1e9),
            score_cell(found[name]),
        ]
        for entries in places:
            entry = entries.get(name)
            cells.append(
                Cell(words.MISSING, sort=1e9, tone="quiet")
                if entry is None
                else Cell(str(entry.rank), sort=entry.rank, note=words.significant(entry.score),
                          tone="good" if entry.rank == 1 else "")
            )  # fmt: skip
        rows.append(tuple(cells))
    columns = [
        Column("Expert"),
        Column("True rank", numeric=True),
        Column("Test score, points", numeric=True, note="with 95 % interval"),
        *(Column(r.score, numeric=True, note="rank, with score") for r in rankings),
    ]
    return Table(f"{index.task_label(target)}: ranks against the truth", tuple(columns), tuple(rows))


def agreement(index: Index, rankings: Sequence[RankingRecord]) -> Table:
    """Return how well each score's ranking agrees with the truth."""
    rows = tuple(
        (
            Cell(index.task_label(r.target)),
            Cell(r.score),
            Cell(words.decimal(r.weighted_tau), sort=_sortable(r.weighted_tau)),
            Cell(words.decimal(r.spearman), sort=_sortable(r.spearman)),
            Cell(words.points(r.regret_at_1, _n_test(index, r.target)), sort=r.regret_at_1),
            Cell(words.duration(r.seconds), sort=r.seconds),
        )
        for r in rankings
    )
    columns = (
        Column("Target"),
        Column("Score"),
        Column("Weighted tau", numeric=True, note="1 is perfect"),
        Column("Spearman", numeric=True),
        Column("Regret, points", numeric=True, note="lost by its first choice"),
        Column("Time", numeric=True),
    )
    return Table("How well each score ranked the experts", columns, rows)


def recipes(index: Index) -> Table:
    """Return how each model was made and what making it cost."""
    rows = tuple(
        (
            model_cell(index, model.name),
            Cell(model.composition.replace("->", "→") or words.MISSING, code=bool(model.composition)),
            Cell(words.settings(model.options)),
            Cell(str(model.reads), sort=model.reads),
            Cell(words.size(model.bytes_read) if model.bytes_read else words.MISSING,
                 sort=model.bytes_read),
            Cell(words.duration(model.seconds), sort=model.seconds),
            Cell(words.short(model.digest), code=True),
        )
        for model in _by_kind(index)
    )  # fmt: skip
    columns = (
        Column("Model"),
        Column("Composition"),
        Column("Options"),
        Column("Reads", numeric=True, note="of every weight"),
        Column("Bytes read", numeric=True),
        Column("Time", numeric=True),
        Column("Digest"),
    )
    return Table("What each model is made of, and what it cost", columns, rows)


def tasks(index: Index) -> Table:
    """Return the tasks with their sizes, sources and licences."""
    rows = tuple(
        (
            Cell(index.task_label(t.name), note=t.name if t.name != t.title else ""),
            Cell(t.role),
            Cell(t.metric),
            Cell(str(len(t.labels)), sort=len(t.labels)),
            Cell(f"{t.n_train:,}", sort=t.n_train),
            Cell(f"{t.n_validation:,}", sort=t.n_validation),
            Cell(f"{t.n_test:,}", sort=t.n_test),
            Cell(f"{t.removed_duplicates:,}", sort=t.removed_duplicates),
            Cell(t.data_license or words.MISSING),
            Cell(t.source or words.MISSING),
            Cell(words.short(t.digest), code=True),
        )
        for t in (*index.pool_tasks, *index.target_tasks)
    )
    columns = (
        Column("Task"),
        Column("Role"),
        Column("Metric"),
        Column("Classes", numeric=True),
        Column("Train", numeric=True),
        Column("Validation", numeric=True),
        Column("Test", numeric=True),
        Column("Duplicates removed", numeric=True),
        Column("Licence"),
        Column("Source"),
        Column("Digest"),
    )
    return Table("Tasks as they were used, after near-duplicates were removed", columns, rows)


def inputs(index: Index) -> Table:
    """Return the digest of every input."""
    found = index.result.lock.inputs.items()
    rows = tuple((Cell(name), Cell(digest, code=True)) for name, digest in found)
    return Table("Inputs and their SHA-256", (Column("Input"), Column("SHA-256")), rows)


def versions(index: Index) -> Table:
    """Return the version of every package that mattered."""
    found = index.result.lock.versions.items()
    rows = tuple((Cell(name), Cell(version)) for name, version in found)
    return Table("Versions", (Column("Package"), Column("Version")), rows)


def _by_kind(index: Index) -> list[ModelRecord]:
    order = {"base": 0, "merge": 1, "expert": 2}
    return sorted(index.result.models, key=lambda model: order[model.kind])


def _n_test(index: Index, task: str) -> int | None:
    return index.tasks[task].n_test if task in index.tasks else None


def _sortable(value: float | None) -> float:
    return -1e9 if value is None else value
