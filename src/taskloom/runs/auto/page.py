"""The report of ``taskloom auto``: one page that opens without a network, and the picture beside it."""

from __future__ import annotations

from taskloom.runs.auto.chart import climb_chart
from taskloom.runs.auto.report import AutoReport, Point, Row
from taskloom.runs.report import words
from taskloom.runs.report.charts import Figure
from taskloom.runs.report.drawing import save_chart
from taskloom.runs.report.page import fill
from taskloom.runs.report.tables import Cell, Column, Table
from taskloom.store.atomic import atomic_file

#: shapes that the page draws
_KINDS = {"base": "base", "expert": "expert", "merge": "merge", "fine-tune": "expert"}


def render_auto(report: AutoReport) -> str:
    """Return the page.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    """
    figure = Figure(
        key="climb",
        title="Score by rung",
        caption=(
            f"Everything on little, one of {report.eta} on {report.eta} times as much. A line ends "
            "where its model was dropped; the bar is the 95 % interval of what is handed over."
        ),
        description=f"Scores of {len(report.rows)} models on up to {report.reached} rungs.",
        spec=climb_chart(report),
        table=None,
    )
    return fill(
        "auto.html.j2",
        {figure.key: {**figure.spec, "description": figure.description}},
        package=__package__,
        report=report,
        figure_shown=figure,
        facts_shown=_facts(report),
        tried=tried_table(report),
        tests=scores_table(report),
        margins=margins_table(report),
        words=words,
    )


def write_page(report: AutoReport) -> None:
    """Write page and picture where the report says that they are.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    OutputError
        A file cannot be written.
    """
    with atomic_file(report.page) as temporary:
        temporary.write_text(render_auto(report), encoding="utf-8", newline="\n")
    save_chart(climb_chart(report), report.picture)


def tried_table(report: AutoReport) -> Table:
    """Return the portfolio: score, n, interval, rung, seconds, and why it went no further."""
    checked = "surety" if report.regime == "unlabeled" else report.metric
    columns = (
        Column("Model"),
        Column("Score", numeric=True, note=f"{checked}, highest rung"),
        Column("n", numeric=True),
        Column("Rung", numeric=True),
        Column("Check", numeric=True, note="on examples that chose nothing"),
        Column("Time", numeric=True),
        Column("Why no further"),
    )
    return Table("What was tried", columns, tuple(_tried(row, report) for row in report.rows))


def _tried(row: Row, report: AutoReport) -> tuple[Cell, ...]:
    last = row.last
    won = row.name == report.winner
    kind = _KINDS.get(row.kind, "merge")
    name = Cell(row.title, kind=kind, flag="handed over" if won else "", tone="good" if won else "")
    return (
        name,
        _scored(last),
        Cell("" if last is None else str(last.n), sort=0 if last is None else last.n),
        Cell("" if last is None else str(last.rung + 1), sort=-1 if last is None else last.rung),
        _scored(row.check),
        Cell(words.duration(row.seconds), sort=row.seconds),
        Cell(row.why, tone="quiet"),
    )


def _scored(point: Point | None) -> Cell:
    if point is None:
        return Cell(words.MISSING, sort=-1.0, tone="quiet")
    return Cell(
        words.points(point.value, point.n),
        sort=point.value,
        note=words.interval(point.low, point.high, point.n),
    )


def scores_table(report: AutoReport) -> Table:
    """Return the test scores."""
    columns = (Column("Model"), Column("Test score", numeric=True), Column("n", numeric=True))
    rows = tuple(
        (
            Cell(report.row(s.model).title, kind=_KINDS.get(report.row(s.model).kind, "merge")),
            Cell(words.points(s.value, s.n), sort=s.value, note=words.interval(s.low, s.high, s.n)),
            Cell(str(s.n), sort=s.n),
        )
        for s in report.tests
    )
    return Table("On the test split, opened once", columns, rows)


def margins_table(report: AutoReport) -> Table | None:
    """Return by how much the best composition wins or loses to each rival on the check; None without."""
    if report.verdict is None:
        return None
    columns = (
        Column("Rival"),
        Column("Difference", numeric=True, note=f"{report.verdict.composition} minus rival"),
        Column("n", numeric=True),
    )
    rows = tuple(
        (
            Cell(margin.rival, kind=_KINDS.get(report.row(margin.rival).kind, "merge")),
            Cell(
                words.points(margin.gain, margin.n, signed=True),
                sort=margin.gain,
                note=words.interval(margin.low, margin.high, margin.n, signed=True),
                tone="good" if margin.low > 0 else "bad" if margin.high < 0 else "",
            ),
            Cell(str(margin.n), sort=margin.n),
        )
        for margin in report.verdict.margins
        if not margin.task
    )
    return Table("The check, against each rival", columns, rows)


def _facts(report: AutoReport) -> list[tuple[str, str]]:
    facts = [
        ("Target", report.target),
        ("Experts", words.count(len(report.experts), "expert")),
        ("Examples", ", ".join(f"{count:,} {what}" for what, count in report.sizes.items())),
        ("Held against one another by", report.regime),
        ("Time", f"{words.duration(report.seconds)} of {words.duration(60 * report.minutes)}"),
    ]
    if report.regret_bound is not None:
        facts.append(("Regret, 95 % bound", f"{words.points(report.regret_bound)} points"))
    return facts
