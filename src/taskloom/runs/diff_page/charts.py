"""The page's heatmaps: layers by module types, and experts by experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taskloom.choose.diff import Diff, Region
from taskloom.runs.diff_page import tables
from taskloom.runs.report import words
from taskloom.runs.report.charts import Figure
from taskloom.runs.report.heatmaps import draw
from taskloom.runs.report.style import Spec
from taskloom.runs.report.tables import Table
from taskloom.runs.report.theme import colour, shade

#: the share of opposite signs that unrelated changes have
CHANCE = 0.5
HEIGHT = 26

Cell = tuple[float | None, str]


def norm_charts(diff: Diff) -> list[Figure]:
    """Draw how far each expert moved: one heatmap each, all on one scale of colour."""
    if not diff.regions:
        return []
    alien = {name for f in diff.findings if f.kind == "wrong-base" for name in f.experts}
    homely = [k for k, name in enumerate(diff.experts) if name not in alien]
    values = [
        value
        for region in diff.regions
        for k in homely or range(len(diff.experts))
        if (value := region.relative_norm[k]) is not None
    ]
    largest = max(values, default=0.0) or 1.0
    return [_norm_chart(diff, k, largest) for k in range(len(diff.experts))]


def _norm_chart(diff: Diff, k: int, largest: float) -> Figure:
    name = diff.experts[k]
    spec = _places(
        diff,
        lambda region: (region.relative_norm[k], _tight(region.relative_norm[k])),
        lambda value: value / largest,
    )
    overall = tables.per_cent(diff.whole.relative_norm[k])
    best = _largest(diff, [region.relative_norm[k] for region in diff.regions])
    return Figure(
        key=f"norm-{k}",
        title=f"{name}: how far it moved",
        caption=(
            "Norm of the task vector in per cent of the base's; a deeper blue is further, on one scale "
            "for all experts."
        ),
        description=f"Heatmap of relative norms of {name}, {overall} over the whole model{best}.",
        spec=spec,
        table=tables.norms(diff, k),
    )


def rank_charts(diff: Diff) -> list[Figure]:
    """Draw how many directions each expert's task vector uses."""
    if not diff.ranks:
        return []
    return [_rank_chart(diff, k) for k in range(len(diff.experts))]


def _rank_chart(diff: Diff, k: int) -> Figure:
    name = diff.experts[k]
    shares = {(r.row, r.column): r.rank_share[k] or 0.0 for r in diff.regions}
    spec = _places(
        diff,
        lambda region: (region.effective_rank[k], words.significant(region.effective_rank[k])),
        lambda _value: 0.0,
        strength=lambda region: shares[region.row, region.column],
    )
    shown = tables.per_cent(diff.whole.rank_share[k])
    return Figure(
        key=f"rank-{k}",
        title=f"{name}: effective rank of its task vector",
        caption=(
            "Mean over the matrices of a cell; a deeper blue is a larger share of the rank there could "
            "be. Few directions mean that a small adapter would hold the change."
        ),
        description=f"Heatmap of effective ranks of {name}, on average {shown} of the largest possible.",
        spec=spec,
        table=tables.ranks(diff, k),
    )


def cosine_charts(diff: Diff) -> list[Figure]:
    """Draw whether task vectors point the same way: experts by experts, then by place."""
    if not diff.pairs or not diff.regions:
        return []
    found = []
    if len(diff.experts) > 2:
        cells = [[(c, words.decimal(c)) for c in line] for line in diff.whole.cosines]
        found.append(
            Figure(
                key="cosine-pairs",
                title="Cosines of task vectors over the whole model",
                caption="Blue: the same direction; orange: against each other; near 0: unrelated.",
                description=f"Heatmap of cosines between {words.count(len(cells), 'task vector')}.",
                spec=_square(diff, cells, lambda value: value),
                table=tables.square(diff, "Cosines of task vectors", cells),
            )
        )
    found.append(
        Figure(
            key="cosines",
            title=f"{_mean(diff)}osine of task vectors by place",
            caption="Blue: the same direction; orange: against each other; near 0: unrelated.",
            description=(
                "Heatmap of cosines by layer and module type, "
                f"{words.decimal(diff.mean_cosine(diff.whole))} over the whole model."
            ),
            spec=_places(
                diff,
                lambda region: (c := diff.mean_cosine(region), words.decimal(c)),
                lambda value: value,
            ),
            table=tables.cosines(diff),
        )
    )
    return found


def conflict_charts(diff: Diff) -> list[Figure]:
    """Draw how often changes have opposite signs: experts by experts, then by place."""
    if not diff.pairs or not diff.regions:
        return []
    caption = (
        "Of the numbers that both changed, per cent changed in opposite directions. Unrelated experts "
        "reach 50 %; orange is more than that, blue less."
    )
    found = []
    if len(diff.experts) > 2:
        cells: list[list[Cell]] = [
            [(c, tables.per_cent(c)) for c in line] for line in diff.whole.sign_conflict
        ]
        found.append(
            Figure(
                key="conflict-pairs",
                title="Sign conflicts over the whole model",
                caption=caption,
                description=f"Heatmap of sign conflicts between {words.count(len(cells), 'expert')}.",
                spec=_square(diff, cells, _agreement),
                table=tables.square(diff, "Sign conflicts", cells),
            )
        )
    found.append(
        Figure(
            key="conflicts",
            title=f"{'Mean s' if len(diff.experts) > 2 else 'S'}ign conflict by place",
            caption=caption,
            description="Heatmap of the share of opposite signs by layer and module type.",
            spec=_places(diff, lambda region: (c := _conflict(diff, region), _tight(c)), _agreement),
            table=tables.conflicts(diff),
        )
    )
    return found


def estimate_tables(diff: Diff) -> list[Table]:
    """Return a table of bounds per expert, where effective ranks are estimates."""
    found = [tables.estimates(diff, k) for k in range(len(diff.experts))]
    return [table for table in found if table.rows]


def _agreement(conflict: float) -> float:
    return (CHANCE - conflict) / CHANCE


def _conflict(diff: Diff, region: Region) -> float | None:
    known = [c for i, j in diff.pairs if (c := region.sign_conflict[i][j]) is not None]
    return sum(known) / len(known) if known else None


def _mean(diff: Diff) -> str:
    return "Mean c" if len(diff.experts) > 2 else "C"


def _tight(value: float | None) -> str:
    return tables.per_cent(value).removesuffix("\N{NO-BREAK SPACE}%")


def _largest(diff: Diff, values: Sequence[float | None]) -> str:
    known = [(v, region) for v, region in zip(values, diff.regions, strict=True) if v is not None]
    if not known:
        return ""
    value, region = max(known, key=lambda pair: pair[0])
    return f", most in {region.row}, {region.column}: {tables.per_cent(value)}"


def _places(
    diff: Diff,
    write: Callable[[Region], Cell],
    scale: Callable[[float], float],
    *,
    strength: Callable[[Region], float] | None = None,
) -> Spec:
    """Draw layers by module types, what has none beside the names; places without a value stay empty."""
    cells = []
    for region in diff.regions:
        value, text = write(region)
        if value is not None:
            deep = strength(region) if strength else scale(value)
            cells.append(_cell(region.row, region.column, text, shade(deep)))
    rows = [str(cell["row"]) for cell in cells]
    present = {cell["column"] for cell in cells}
    columns = [r.column for r in diff.modules if r.column in present]
    columns.sort(key=lambda column: column != "other")
    return draw(
        cells,
        list(dict.fromkeys(rows)),
        columns,
        row_title="Layer",
        column_title="Module type",
        height=HEIGHT,
    )


def _square(diff: Diff, cells: Sequence[Sequence[Cell]], scale: Callable[[float], float]) -> Spec:
    drawn = [
        _cell(
            first,
            second,
            text,
            colour("card") if value is None else shade(0.0 if first == second else scale(value)),
        )
        for first, line in zip(diff.experts, cells, strict=True)
        for second, (value, text) in zip(diff.experts, line, strict=True)
    ]
    names = list(diff.experts)
    return draw(drawn, names, names, row_title="Expert", column_title="With")


def _cell(row: str, column: str, text: str, fill: str) -> dict[str, Any]:
    return {"row": row, "column": column, "text": text, "fill": fill, "framed": False}
