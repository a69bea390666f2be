"""Bytes of a data file to rows: csv, tsv, jsonl, parquet, text matched by a pattern, whole documents."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal

from taskloom.errors import DataError, MissingExtra, PlanError
from taskloom.evaluation.rows import Row, shortened

Format = Literal["csv", "tsv", "jsonl", "parquet", "pattern"]
Undecodable = Literal["refuse", "replace"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


def unpacked(data: bytes, name: str) -> tuple[bytes, str]:
    """Undo ``.gz``, ``.dz`` or ``.bz2`` compression, told by the name.

    Returns
    -------
    tuple
        The bytes, and the name without the compression's suffix.

    Raises
    ------
    DataError
        The bytes are not compressed in the way their name says.
    """
    path = PurePath(name)
    try:
        if path.suffix in (".gz", ".dz"):
            return gzip.decompress(data), str(path.with_suffix(""))
        if path.suffix == ".bz2":
            return bz2.decompress(data), str(path.with_suffix(""))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{name} is not a readable {path.suffix[1:]} file ({error})") from None
    return data, name


def decoded(data: bytes, *, name: str, encoding: str, undecodable: Undecodable) -> str:
    """Decode a whole text file, strictly unless told to replace.

    Raises
    ------
    DataError
        Bytes that are not text in that encoding: names the file and the first such byte.
    """
    try:
        if undecodable == "replace":
            return data.decode(encoding, "replace")
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not {encoding} text: byte {data[error.start]:#04x} at offset {error.start}",
            hint="Name its encoding (e.g. 'encoding: latin-1') or say 'undecodable: replace'",
        ) from None
    except LookupError:
        raise PlanError(f"{name}: unknown encoding {encoding!r}", hint="Try utf-8") from None
    return text.removeprefix("\ufeff")


def read_rows(
    data: bytes,
    *,
    name: str,
    format: Format | None = None,
    encoding: str = "utf-8",
    undecodable: Undecodable = "refuse",
    pattern: str | None = None,
    unmatched: Literal["refuse", "drop"] = "refuse",
) -> list[Row]:
    r"""Read the rows of one file.

    Parameters
    ----------
    name
        The file's name: tells compression and, unless given, format; used in messages.
    pattern
        For format ``pattern``: a regular expression found again and again in the text (``^`` and ``$``
        match at lines); its named groups are the columns. Text between matches must be blank unless
        ``unmatched`` is ``drop``.

    Raises
    ------
    DataError
        The file is not what its format says; names file and line.
    PlanError
        The format cannot be told from the name, or has no pattern.

    Examples
    --------
    >>> read_rows(b"text,label\nhello,a\n", name="x.csv")
    [{'text': 'hello', 'label': 'a'}]
    >>> read_rows(b"a hello\nb you", name="x.txt", format="pattern",
    ...           pattern=r"^(?P<label>\w) (?P<text>.*)$")
    [{'label': 'a', 'text': 'hello'}, {'label': 'b', 'text': 'you'}]
    """
    data, name = unpacked(data, name)
    kind = format or SUFFIXES.get(PurePath(name).suffix.lower())
    if kind is None:
        raise PlanError(
            f"{name}: the format cannot be told from the name",
            hint="Say 'format:' csv, tsv, jsonl, parquet or pattern",
        )
    if kind == "parquet":
        return _parquet(data, name)
    text = decoded(data, name=name, encoding=encoding, undecodable=undecodable)
    if kind == "jsonl":
        return _jsonl(text, name)
    if kind == "pattern":
        if pattern is None:
            raise PlanError(f"{name}: format 'pattern' needs a 'pattern:'")
        return _matched(text, name, pattern, unmatched)
    return _delimited(text, name, "," if kind == "csv" else "\t")


def _delimited(text: str, name: str, delimiter: str) -> list[Row]:
    lines = io.StringIO(text, newline="")
    if delimiter == ",":
        reader = csv.reader(lines)
    else:  # tab-separated files do not quote
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    limit = csv.field_size_limit(2**31 - 1)
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{name} is empty: expected a header line and at least one row")
        if len(set(header)) < len(header):
            raise DataError(f"{name} names a column twice: {shortened(header)}")
        rows: list[Row] = []
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{name} line {reader.line_num} has {len(values)} fields, expected {len(header)} "
                    f"({shortened(header)})",
                    hint="Check delimiter and quotes",
                )
            rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} is malformed: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _jsonl(text: str, name: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name} line {number} is not JSON: {error.msg}") from None
        if not isinstance(value, dict):
            raise DataError(f"{name} line {number} is a JSON {type(value).__name__}, expected an object")
        rows.append(value)
    return rows


def _parquet(data: bytes, name: str) -> list[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingExtra("pyarrow", "hub", purpose="reading parquet") from None
    try:
        rows: list[Row] = pq.read_table(pa.BufferReader(data)).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{name} is not a readable parquet file ({error})") from None
    return rows


def _matched(text: str, name: str, pattern: str, unmatched: str) -> list[Row]:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise PlanError(f"{name}: {pattern!r} is not a regular expression ({error})") from None
    if not compiled.groupindex:
        raise PlanError(f"{name}: the pattern {pattern!r} has no named group (?P<column>...)")
    text = text.replace("\r\n", "\n")
    rows: list[Row] = []
    end = 0
    for match in compiled.finditer(text):
        if unmatched == "refuse":
            _refuse_rest(text, end, match.start(), name, pattern)
        rows.append(dict(match.groupdict()))
        end = match.end()
    if unmatched == "refuse":
        _refuse_rest(text, end, len(text), name, pattern)
    return rows


def _refuse_rest(text: str, start: int, stop: int, name: str, pattern: str) -> None:
    between = text[start:stop]
    if between.strip():
        lead = len(between) - len(between.lstrip())
        line = text.count("\n", 0, start + lead) + 1
        raise DataError(
            f"{name} line {line} holds {between.strip()[:60]!r}, which {pattern!r} does not match",
            hint="Correct the pattern, or say 'unmatched: drop'",
        )


def documents(
    files: Iterator[tuple[str, bytes]], *, encoding: str, undecodable: Undecodable
) -> list[Row]:
    """Make one row of each file: columns ``text``, ``path``, ``folder`` (directory name) and ``file``.

    >>> documents(iter([("a/b/c.txt", b"hi")]), encoding="utf-8", undecodable="refuse")
    [{'text': 'hi', 'path': 'a/b/c.txt', 'folder': 'b', 'file': 'c.txt'}]
    """
    rows: list[Row] = []
    for path, data in files:
        place = PurePath(path)
        text = decoded(data, name=path, encoding=encoding, undecodable=undecodable)
        rows.append({"text": text, "path": path, "folder": place.parent.name, "file": place.name})
    return rows
