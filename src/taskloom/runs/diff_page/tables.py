"""The page's tables, in the report's shape."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.choose.diff import Diff, Region, Row
from taskloom.runs.report import words
from taskloom.runs.report.tables import Cell, Column, Table

#: sorts below every number
LAST = -1e9


def per_cent(value: float | None) -> str:
    r"""Write a share in per cent with the digits a reader can use, which no line break parts.

    >>> [per_cent(x).replace("\N{NO-BREAK SPACE}", " ") for x in (0.0314, 1.353, 0.0042, 0.00042)]
    ['3.1 %', '135 %', '0.42 %', '0.042 %']
    >>> per_cent(None)
    '–'
    """
    if value is None:
        return words.MISSING
    size = abs(value)
    digits = 0 if size >= 0.995 else 1 if size >= 0.00995 or size == 0 else 2 if size >= 0.000995 else 3
    return f"{words.decimal(100 * value, digits)}\N{NO-BREAK SPACE}%"


def experts(diff: Diff) -> Table:
    """Return every expert's numbers over the whole model."""
    whole = diff.whole
    warned = {
        name
        for finding in diff.findings
        for name in (finding.experts[:1] if finding.kind == "already-merged" else finding.experts)
    }
    rows = tuple(
        (
            Cell(name, kind="expert", flag="warning" if name in warned else "",
                 tone="bad" if name in warned else ""),
            number(whole.relative_norm[k], per_cent(whole.relative_norm[k])),
            number(whole.base_cosine[k], words.decimal(whole.base_cosine[k], 3)),
            number(whole.rank_share[k], per_cent(whole.rank_share[k])),
            number(whole.stable_rank[k], words.significant(whole.stable_rank[k])),
        )
        for k, name in enumerate(diff.experts)
    )  # fmt: skip
    columns = (
        Column("Expert"),
        Column("Relative norm", numeric=True, note="task vector / base"),
        Column("Cosine with base", numeric=True, note="of the weights"),
        Column("Share of rank", numeric=True, note="effective / largest, mean"),
        Column("Stable rank", numeric=True, note="mean over matrices"),
    )
    return Table("Task vectors over the whole model", columns, rows)


def norms(diff: Diff, k: int) -> Table:
    """Return one expert's relative norms by layer and module type."""
    rows = tuple(
        (
            *_place(region),
            number(region.relative_norm[k], per_cent(region.relative_norm[k])),
            number(region.base_cosine[k], words.decimal(region.base_cosine[k], 3)),
            Cell(f"{region.parameters:,}", sort=region.parameters),
        )
        for region in diff.regions
    )
    columns = (
        *_PLACE,
        Column("Relative norm", numeric=True),
        Column("Cosine with base", numeric=True),
        Column("Parameters", numeric=True),
    )
    return Table(f"{diff.experts[k]}: norm of the task vector over the base's", columns, rows)


def ranks(diff: Diff, k: int) -> Table:
    """Return one expert's ranks by layer and module type."""
    rows = tuple(
        (
            *_place(region),
            number(region.effective_rank[k], words.significant(region.effective_rank[k])),
            number(region.rank_share[k], per_cent(region.rank_share[k])),
            number(region.stable_rank[k], words.significant(region.stable_rank[k])),
        )
        for region in diff.regions
        if region.effective_rank[k] is not None
    )
    columns = (
        *_PLACE,
        Column("Effective rank", numeric=True),
        Column("Share of largest", numeric=True),
        Column("Stable rank", numeric=True),
    )
    return Table(f"{diff.experts[k]}: ranks of the task vector, means over matrices", columns, rows)


def estimates(diff: Diff, k: int) -> Table:
    """Return one expert's effective ranks that are estimates, with the least and largest."""
    rows = tuple(
        (
            Cell(rank.tensor),
            number(rank.effective, words.significant(rank.effective)),
            number(rank.low, words.significant(rank.low)),
            number(rank.high, words.significant(rank.high)),
            Cell(f"{rank.largest:,}", sort=rank.largest),
        )
        for rank in diff.ranks
        if rank.expert == diff.experts[k] and rank.how == "sketch"
    )
    columns = (
        Column("Matrix"),
        Column("Effective rank", numeric=True, note="estimate"),
        Column("Least", numeric=True),
        Column("Largest", numeric=True),
        Column("Smaller side", numeric=True),
    )
    return Table(f"{diff.experts[k]}: effective ranks that are estimates", columns, rows)


def cosines(diff: Diff) -> Table:
    """Return every pair's cosine by layer and module type."""
    rows = tuple(
        (
            *_place(region),
            *(
                number(region.cosines[i][j], words.decimal(region.cosines[i][j], 3))
                for i, j in diff.pairs
            ),
        )
        for region in diff.regions
    )
    return Table("Cosines of task vectors", (*_PLACE, *_pair_columns(diff)), rows)


def conflicts(diff: Diff) -> Table:
    """Return every pair's sign conflict by layer and module type, and the share any two have."""
    several = len(diff.experts) > 2
    rows = tuple(
        (
            *_place(region),
            *([number(region.any_conflict, per_cent(region.any_conflict))] if several else []),
            *(
                number(region.sign_conflict[i][j], per_cent(region.sign_conflict[i][j]))
                for i, j in diff.pairs
            ),
        )
        for region in diff.regions
    )
    any_column = [Column("Any two", numeric=True)] if several else []
    caption = "Share of the numbers changed by both experts whose changes have opposite signs"
    return Table(caption, (*_PLACE, *any_column, *_pair_columns(diff)), rows)


def square(diff: Diff, title: str, texts: Sequence[Sequence[tuple[float | None, str]]]) -> Table:
    """Return a matrix of experts by experts."""
    rows = tuple(
        (Cell(name), *(number(value, text) for value, text in line))
        for name, line in zip(diff.experts, texts, strict=True)
    )
    columns = (Column("Expert"), *(Column(name, numeric=True) for name in diff.experts))
    return Table(title, columns, rows)


def vocabulary(diff: Diff) -> Table:
    """Return how much of each embedding every expert changed."""
    rows = tuple(
        (
            Cell(entry.tensor),
            Cell(entry.expert),
            Cell(f"{entry.changed:,}", sort=entry.changed),
            Cell(f"{entry.rows:,}", sort=entry.rows),
            Cell("  ".join(map(_row_name, entry.most[:8])) or words.MISSING, code=bool(entry.most)),
        )
        for entry in diff.vocabulary
    )
    columns = (
        Column("Embedding"),
        Column("Expert"),
        Column("Rows changed", numeric=True),
        Column("Of", numeric=True),
        Column("Most changed"),
    )
    return Table("Rows of embeddings that differ from the base's in any number", columns, rows)


def changed_rows(diff: Diff) -> Table:
    """Return every listed row of every embedding."""
    rows = tuple(
        (
            Cell(_row_name(row), code=True),
            Cell(f"{row.number:,}", sort=row.number),
            Cell(entry.expert),
            Cell(entry.tensor),
            Cell("from zero" if row.change is None else per_cent(row.change),
                 sort=1e9 if row.change is None else row.change),
        )
        for entry in diff.vocabulary
        for row in entry.most
    )  # fmt: skip
    columns = (
        Column("Token"),
        Column("Row", numeric=True),
        Column("Expert"),
        Column("Embedding"),
        Column("Change", numeric=True, note="norm over the base's row"),
    )
    return Table("The most changed rows", columns, rows)


def number(value: float | None, text: str) -> Cell:
    """Return a cell that reads ``text`` and sorts by ``value``."""
    return Cell(text, sort=LAST if value is None else value, tone="quiet" if value is None else "")


_PLACE = (Column("Layer"), Column("Module type"))


def _place(region: Region) -> tuple[Cell, Cell]:
    return Cell(region.row), Cell(region.column)


def _pair_columns(diff: Diff) -> list[Column]:
    return [Column(f"{diff.experts[i]}, {diff.experts[j]}", numeric=True) for i, j in diff.pairs]


def _row_name(row: Row) -> str:
    return f"#{row.number}" if row.token is None else row.token
