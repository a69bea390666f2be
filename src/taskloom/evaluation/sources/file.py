"""Rows of local files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from taskloom.errors import DataError
from taskloom.evaluation.formats import Format, Undecodable, read_rows
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register


@register("source")
def file(
    context: SourceContext,
    /,
    *,
    path: str | dict[str, str],
    format: Format | None = None,
    encoding: str = "utf-8",
    undecodable: Undecodable = "refuse",
    pattern: str | None = None,
    unmatched: Literal["refuse", "drop"] = "refuse",
) -> list[Row]:
    """Read local csv, tsv, jsonl or parquet files, or text matched by a pattern.

    Parameters
    ----------
    path
        One file, or a mapping from split name to file, which sets the column ``split``. Relative paths
        start at the annotation's directory.
    format, encoding, undecodable, pattern, unmatched
        See `taskloom.evaluation.formats.read_rows`.

    Raises
    ------
    DataError
        A file is missing, or is not what its format says.
    """
    paths = {"": path} if isinstance(path, str) else path
    rows: list[Row] = []
    for split, name in paths.items():
        found = read_rows(
            _bytes(context.folder / Path(name).expanduser(), context.task),
            name=name,
            format=format,
            encoding=encoding,
            undecodable=undecodable,
            pattern=pattern,
            unmatched=unmatched,
        )
        rows += [{**row, "split": split} for row in found] if split else found
    return rows


def _bytes(path: Path, task: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"task {task!r}: data file {path} cannot be read ({error.strerror})",
            hint="Check 'source: path' (relative to the annotation's directory)",
        ) from None
