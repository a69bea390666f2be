"""Data sets that need not fit into memory: texts in chunks, and a subset in the format they came in.

A jsonl, csv, tsv, parquet or plain text file (one text a line; the first and the last also as .gz), a
directory that ``datasets.Dataset.save_to_disk`` wrote, or a list in memory.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from taskloom.errors import DataError, MissingExtra, PlanError, nearest
from taskloom.store.atomic import atomic_directory, atomic_file

#: rows that are read, scored and compared together; fixed, so that nothing depends on it
CHUNK = 2048
#: row number -> score, for the rows that were chosen
Chosen = Mapping[int, float]


class Table(Protocol):
    """A data set whose rows are numbered from 0."""

    name: str
    #: how outputs must end, or "" where any name will do
    suffix: str

    def __len__(self) -> int:
        """Count the rows; reads the data once, the first time."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """Yield the first row number and the texts of every chunk of `CHUNK` rows.

        Of ``parts`` readers that share the chunks in turn, this is number ``part``.
        """
        ...

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """Write the chosen rows in their order, with their scores in a column of that name, if any."""
        ...


def open_table(source: str | Path | Sequence[Any]) -> Table:
    """Open a data set; a sequence holds texts, or mappings from column to value.

    Raises
    ------
    DataError
        There is nothing at the path, or nothing in it.
    PlanError
        The format cannot be told from the name.
    """
    if not isinstance(source, str | Path):
        return InMemory(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return Saved(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or directory", hint="Check the path")
    kind = [each.lower() for each in path.suffixes if each.lower() != ".gz"][-1:]
    made = _KINDS.get(kind[0]) if kind else None
    if made is None:
        raise PlanError(
            f"{path}: the format cannot be told from the name",
            hint=f"Let it end in {', '.join(_KINDS)}, or give a directory of datasets.save_to_disk",
        )
    return made(path)


def check_column(table: Table, column: str) -> None:
    """Refuse a column that is not there, naming those that are.

    Raises
    ------
    DataError
        No such column.
    """
    if column not in table.columns:
        guess = nearest(column, table.columns)
        did = f"did you mean {guess!r}? " if guess else ""
        listed = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"{table.name} has no column {column!r}: {did}Columns: {listed}")


def all_texts(table: Table, column: str) -> list[str]:
    """Return all texts of a column, in memory."""
    return [text for _, texts in table.chunks(column) for text in texts]


def _text(value: Any, name: str, row: int, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{name} row {row}: column {column!r} holds {type(value).__name__}, expected a text",
            hint="Leave such rows out, or name the column that holds the texts",
        )
    return value


def _dealt(
    rows: Iterable[Any], read: Callable[[Any, int], str], part: int, parts: int
) -> Iterator[tuple[int, list[str]]]:
    """Cut rows into chunks and read those of this part; the others are passed over unread."""
    texts: list[str] = []
    start = 0
    for number, row in enumerate(rows):
        if number % CHUNK == 0:
            if texts:
                yield start, texts
            start, texts = number, []
        if number // CHUNK % parts == part:
            texts.append(read(row, number))
    if texts:
        yield start, texts


def _score_column(table: Table, score: str | None) -> None:
    if score is not None and score in table.columns:
        raise PlanError(
            f"{table.name} has a column {score!r} already", hint="Name the column of scores differently"
        )


class _Lines:
    """What files of lines have in common."""

    _newline = "\n"

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._packed = path.suffix.lower() == ".gz"
        self.suffix = "".join(path.suffixes[-2 if self._packed else -1 :]).lower()

    @contextmanager
    def _open(self) -> Iterator[IO[str]]:
        opened: Callable[..., IO[str]] = gzip.open if self._packed else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig", newline=self._newline) as file:
                yield file
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self.name} cannot be read as UTF-8 text: {error}", hint="Convert it to UTF-8"
            ) from None

    @contextmanager
    def _writing(self, output: Path) -> Iterator[IO[str]]:
        with atomic_file(output) as temp:
            if self._packed:
                with gzip.open(temp, "wt", encoding="utf-8", newline="") as file:
                    yield file
            else:
                with open(temp, "w", encoding="utf-8", newline="") as file:
                    yield file


class TextLines(_Lines):
    """A text a line; there is one column, ``text``."""

    columns = ("text",)

    @cached_property
    def _count(self) -> int:
        with self._open() as file:
            return sum(1 for _ in file)

    def __len__(self) -> int:
        return self._count

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""
        with self._open() as file:
            yield from _dealt(file, lambda line, _: line.rstrip("\r\n"), part, parts)

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`; lines have no room for scores."""
        if score is not None:
            raise PlanError(
                f"{self.name}: a file of plain lines has no column for scores",
                hint="Leave the score column out, or give the pool as jsonl",
            )
        with self._open() as file, self._writing(output) as out:
            out.writelines(
                line if line.endswith("\n") else line + "\n"
                for number, line in enumerate(file)
                if number in chosen
            )


class JsonLines(_Lines):
    """A JSON object a line; blank lines are no rows."""

    def _rows(self) -> Iterator[str]:
        with self._open() as file:
            yield from (line for line in file if not line.isspace())

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self._rows())

    def __len__(self) -> int:
        return self._count

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Keys of the first object."""
        return tuple(self._first())

    def _first(self) -> dict[str, Any]:
        for line in self._rows():
            return self._read(line, 0)
        return {}

    def _read(self, line: str, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{self.name} row {number} is not JSON: {error.msg}") from None
        if not isinstance(value, dict):
            raise DataError(
                f"{self.name} row {number} is a JSON {type(value).__name__}, expected an object"
            )
        return value

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""

        def read(line: str, number: int) -> str:
            row = self._read(line, number)
            if column not in row:
                raise DataError(
                    f"{self.name} row {number} has no {column!r}: it has {', '.join(row) or 'nothing'}"
                )
            return _text(row[column], self.name, number, column)

        yield from _dealt(self._rows(), read, part, parts)

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`; without scores, lines are copied as they are."""
        _score_column(self, score)
        with self._writing(output) as out:
            for number, line in enumerate(self._rows()):
                if number not in chosen:
                    continue
                if score is not None:
                    line = json.dumps(
                        {**self._read(line, number), score: chosen[number]}, ensure_ascii=False
                    )
                out.write(line.rstrip("\r\n") + "\n")


class Delimited(_Lines):
    """Comma- or tab-separated, with a header; tab-separated files do not quote."""

    _newline = ""  # as the csv module wants it: quoted fields may hold line ends

    @property
    def _dialect(self) -> dict[str, Any]:
        if ".tsv" in self.suffix:
            return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        return {}

    def _rows(self) -> Iterator[list[str]]:
        """Yield the header and all rows."""
        limit = csv.field_size_limit(2**31 - 1)
        try:
            with self._open() as file:
                reader = csv.reader(file, **self._dialect)
                width = 0
                for row in reader:
                    if not row:
                        continue
                    width = width or len(row)
                    if len(row) != width:
                        raise DataError(
                            f"{self.name} line {reader.line_num}: {len(row)} fields, expected {width}",
                            hint="Check delimiter and quotes",
                        )
                    yield row
        except csv.Error as error:
            raise DataError(f"{self.name} is malformed: {error}") from None
        finally:
            csv.field_size_limit(limit)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The header."""
        header = tuple(next(self._rows(), ()))
        if len(set(header)) < len(header):
            raise DataError(f"{self.name} names a column twice: {', '.join(header)}")
        return header

    @cached_property
    def _count(self) -> int:
        return max(0, sum(1 for _ in self._rows()) - 1)

    def __len__(self) -> int:
        return self._count

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""
        place = self.columns.index(column)
        rows = self._rows()
        next(rows)
        yield from _dealt(rows, lambda row, _: row[place], part, parts)

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`."""
        _score_column(self, score)
        with self._writing(output) as out:
            writer = csv.writer(out, lineterminator="\n", **self._dialect)
            for number, row in enumerate(self._rows(), start=-1):
                if number < 0:
                    writer.writerow(row + [score] * (score is not None))
                elif number in chosen:
                    writer.writerow(row + [repr(chosen[number])] * (score is not None))


class Parquet:
    """A parquet file, read and written in batches."""

    suffix = ".parquet"

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._pa, self._pq = _arrow()

    @cached_property
    def _file(self) -> Any:
        try:
            return self._pq.ParquetFile(self.path)
        except (self._pa.ArrowException, OSError) as error:
            raise DataError(f"{self.name} is not a readable parquet file ({error})") from None

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in the schema."""
        return tuple(self._file.schema_arrow.names)

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""
        opened = self._pq.ParquetFile(self.path)  # one of its own, as processes may share the table
        batches = opened.iter_batches(batch_size=CHUNK, columns=[column], use_threads=False)
        rows = (value for batch in batches for value in batch.column(0).to_pylist())
        yield from _dealt(rows, lambda v, n: _text(v, self.name, n, column), part, parts)

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`."""
        _score_column(self, score)
        schema = self._file.schema_arrow
        if score is not None:
            schema = schema.append(self._pa.field(score, self._pa.float64()))
        with atomic_file(output) as temp, self._pq.ParquetWriter(temp, schema) as out:
            start = 0
            for batch in self._pq.ParquetFile(self.path).iter_batches(batch_size=CHUNK):
                rows = [n for n in range(batch.num_rows) if start + n in chosen]
                if rows:
                    taken = self._pa.Table.from_batches([batch]).take(rows)
                    if score is not None:
                        scores = self._pa.array([chosen[start + n] for n in rows], self._pa.float64())
                        taken = taken.append_column(score, scores)
                    out.write_table(taken.cast(schema))
                start += batch.num_rows


class Saved:
    """A directory that ``datasets.Dataset.save_to_disk`` wrote."""

    suffix = ""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            import datasets
        except ModuleNotFoundError:
            raise MissingExtra("datasets", "hub", purpose="reading a saved data set") from None
        try:
            found = datasets.load_from_disk(str(path))
        except (FileNotFoundError, ValueError) as error:
            raise DataError(
                f"{path} is no data set that save_to_disk wrote ({str(error).splitlines()[0]})",
                hint="Give a file, or the directory of one split",
            ) from None
        if not isinstance(found, datasets.Dataset):
            raise DataError(
                f"{path} holds several splits: {', '.join(found)}", hint="Give the directory of one"
            )
        self._data: Any = found

    def __len__(self) -> int:
        return len(self._data)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self._data.column_names)

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""
        for start in range(part * CHUNK, len(self), parts * CHUNK):
            values = self._data[start : start + CHUNK][column]
            yield start, [_text(v, self.name, start + n, column) for n, v in enumerate(values)]

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`."""
        _score_column(self, score)
        rows = sorted(chosen)
        subset = self._data.select(rows)
        if score is not None:
            subset = subset.add_column(score, [chosen[n] for n in rows])
        with atomic_directory(output, overwrite=True) as temp:
            subset.save_to_disk(str(temp))


class InMemory:
    """A list of texts, or of mappings; written as jsonl."""

    name, suffix = "<memory>", ".jsonl"

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows
        for number, row in enumerate(rows):
            if not isinstance(row, str | Mapping):
                raise DataError(
                    f"<memory> row {number} is a {type(row).__name__}, expected a text or a mapping"
                )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """``text``, or the keys of the first mapping."""
        first = self._rows[0] if len(self._rows) else ""
        return ("text",) if isinstance(first, str) else tuple(first)

    def chunks(self, column: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, list[str]]]:
        """See `Table.chunks`."""

        def read(row: Any, number: int) -> str:
            value = row if isinstance(row, str) else row.get(column)
            return _text(value, self.name, number, column)

        yield from _dealt(self._rows, read, part, parts)

    def write(self, chosen: Chosen, score: str | None, output: Path) -> None:
        """See `Table.write`."""
        _score_column(self, score)
        with atomic_file(output) as temp, open(temp, "w", encoding="utf-8") as out:
            for number in sorted(chosen):
                row = self._rows[number]
                found = {"text": row} if isinstance(row, str) else dict(row)
                if score is not None:
                    found[score] = chosen[number]
                out.write(json.dumps(found, ensure_ascii=False) + "\n")


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtra("pyarrow", "hub", purpose="reading parquet") from None
    return pyarrow, sys.modules["pyarrow.parquet"]


_KINDS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".csv": Delimited,
    ".tsv": Delimited,
    ".parquet": Parquet,
    ".txt": TextLines,
}
