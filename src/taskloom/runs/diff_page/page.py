"""The page of ``taskloom diff``: the report's frame around other charts and tables."""

from __future__ import annotations

import os
from pathlib import Path

from taskloom.choose.diff import Diff
from taskloom.runs.diff_page import charts, tables
from taskloom.runs.report import words
from taskloom.runs.report.page import fill
from taskloom.store.atomic import atomic_file


def render_diff(diff: Diff) -> str:
    """Return the page as one HTML text that opens without a network.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    """
    figures = {
        "norms": charts.norm_charts(diff),
        "cosines": charts.cosine_charts(diff),
        "conflicts": charts.conflict_charts(diff),
        "ranks": charts.rank_charts(diff),
    }
    specs = {
        figure.key: {**figure.spec, "description": figure.description}
        for group in figures.values()
        for figure in group
    }
    return fill(
        "diff.html.j2",
        specs,
        package=__package__,
        diff=diff,
        figures=figures,
        headline=headline(diff),
        facts_shown=_facts(diff),
        experts=tables.experts(diff),
        vocabulary=tables.vocabulary(diff),
        changed_rows=tables.changed_rows(diff),
        estimates=charts.estimate_tables(diff),
        words=words,
    )


def write_diff_page(diff: Diff, path: str | os.PathLike[str]) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path.

    Raises
    ------
    MissingExtra
        jinja2 or vl-convert-python is not installed.
    OutputError
        The file cannot be written.
    """
    page = render_diff(diff)
    target = Path(path)
    with atomic_file(target) as temp:
        temp.write_text(page, encoding="utf-8", newline="\n")
    return target


def headline(diff: Diff) -> str:
    """Say in one sentence how far the experts moved and whether they agree."""
    moved = [norm for norm in diff.whole.relative_norm if norm is not None]
    count = words.count(len(diff.experts), "expert")
    if not moved:
        return f"{count}: the base has no weights other than zero to compare with"
    low, high = (tables.per_cent(value) for value in (min(moved), max(moved)))
    far = high if low == high else f"{low} to {high}"
    sentence = f"{count} moved {far} from the base"
    cosine = diff.mean_cosine(diff.whole)
    if cosine is not None:
        kind = "cosine" if len(diff.experts) == 2 else "mean cosine"
        sentence += f"; {kind} of their task vectors {words.decimal(cosine)}"
    return sentence


def _facts(diff: Diff) -> list[tuple[str, str]]:
    return [
        ("Base", diff.base),
        ("Experts", ", ".join(diff.experts)),
        ("Compared", words.count(diff.whole.parameters, "parameter")),
        ("In", words.count(diff.whole.tensors, "tensor")),
        ("Read", words.size(diff.bytes_read)),
    ]
