"""Cleaning rules that an annotation may list: each maps rows to rows, and none runs user code."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from taskloom.errors import DataError
from taskloom.evaluation.rows import Row, column, keyed_order, row_key
from taskloom.evaluation.strict import Strict


class _Rule(Strict):
    """A rule that may carry a regular expression, checked when the annotation is read."""

    @field_validator("pattern", "matches", check_fields=False)
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression ({error})") from None
        return value


class Replace(_Rule):
    r"""Replace every match of ``pattern`` in a column by ``by``, where ``\1`` is the first group."""

    rule: Literal["replace"]
    column: str
    pattern: str
    by: str = ""

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with the column rewritten."""
        found = re.compile(self.pattern)
        name = self.column
        return [{**row, name: found.sub(self.by, str(column(row, name)))} for row in rows]


class Extract(_Rule):
    """Set new columns from the named groups of ``pattern``, found in a column.

    A row without a match is an error, or is dropped when ``unmatched: drop`` says so.
    """

    rule: Literal["extract"]
    column: str
    pattern: str
    unmatched: Literal["refuse", "drop"] = "refuse"

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the matching rows with one more column per named group."""
        search = re.compile(self.pattern).search
        kept: list[Row] = []
        for row in rows:
            text = str(column(row, self.column))
            if match := search(text):
                kept.append({**row, **match.groupdict()})
            elif self.unmatched == "refuse":
                raise DataError(
                    f"column {self.column!r} holds {text[:60]!r}, which {self.pattern!r} does not match",
                    hint="Correct the pattern, or say 'unmatched: drop'",
                )
        return kept


class Split(_Rule):
    """Make one row of each piece of a column: what lies between matches, or each match itself.

    Other columns are copied. With ``where``, only rows whose column has that value are split.
    """

    rule: Literal["split"]
    column: str
    pattern: str
    pieces: Literal["between", "matches"] = "between"
    where: dict[str, str] = Field(default_factory=dict)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows, those that ``where`` selects replaced by their pieces."""
        cut = re.compile(self.pattern)
        made: list[Row] = []
        for row in rows:
            if any(str(column(row, name)) != value for name, value in self.where.items()):
                made.append(row)
                continue
            text = str(column(row, self.column))
            if self.pieces == "between":
                pieces = cut.split(text)
            else:
                pieces = [m.group() for m in cut.finditer(text)]
            made += [{**row, self.column: p} for p in pieces if p and p.strip()]
        return made


class Keep(_Rule):
    """Keep rows whose column satisfies every condition given: values, a pattern, a length range."""

    rule: Literal["keep"]
    column: str
    values: list[str] | None = None
    matches: str | None = None
    ignore_case: bool = False
    min_length: int | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, ge=0)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that satisfy the conditions."""
        return [row for row in rows if self.holds(row)]

    def holds(self, row: Row) -> bool:
        """Whether one row satisfies the conditions; a missing value satisfies none."""
        value = column(row, self.column)
        if value is None:
            return False
        text = str(value)
        flags = re.IGNORECASE if self.ignore_case else 0
        return (
            (self.values is None or text in self.values)
            and (self.matches is None or re.search(self.matches, text, flags) is not None)
            and (self.min_length is None or len(text) >= self.min_length)
            and (self.max_length is None or len(text) <= self.max_length)
        )


class Drop(Keep):
    """Drop rows whose column satisfies every condition given; the opposite of ``keep``."""

    rule: Literal["drop"]  # type: ignore[assignment]

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that do not satisfy the conditions."""
        return [row for row in rows if not self.holds(row)]


class Threshold(_Rule):
    """Turn a number into one of two names; rows between the thresholds are dropped.

    ``number < below`` gives the first name, ``number > above`` the second, written to ``into``.
    """

    rule: Literal["threshold"]
    column: str
    below: float
    above: float
    into: str
    names: tuple[str, str]

    @model_validator(mode="after")
    def _ordered(self) -> Threshold:
        if self.below > self.above:
            raise ValueError(f"below ({self.below}) must not exceed above ({self.above})")
        return self

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows outside the thresholds, named."""
        made: list[Row] = []
        for row in rows:
            value = column(row, self.column)
            try:
                number = float(str(value))
            except ValueError:
                raise DataError(f"column {self.column!r} holds {value!r}, not a number") from None
            if number < self.below:
                made.append({**row, self.into: self.names[0]})
            elif number > self.above:
                made.append({**row, self.into: self.names[1]})
        return made


class Top(_Rule):
    """Keep the rows of a column's ``k`` most frequent values (equal counts: alphabetical order)."""

    rule: Literal["top"]
    column: str
    k: int = Field(ge=2)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of the most frequent values."""
        counts = Counter(str(column(row, self.column)) for row in rows)
        best = sorted(counts, key=lambda value: (-counts[value], value))[: self.k]
        return [row for row in rows if str(row[self.column]) in set(best)]


class Limit(_Rule):
    """Keep at most so many rows for each value of a column, chosen by a hash of their content.

    ``at_most: smallest`` balances: every value keeps as many rows as the rarest one has.
    """

    rule: Literal["limit"]
    column: str
    at_most: Annotated[int, Field(ge=1)] | Literal["smallest"]

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the chosen rows, in their old order."""
        places: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            places[str(column(row, self.column))].append(i)
        smallest = min((len(p) for p in places.values()), default=0)
        most = smallest if self.at_most == "smallest" else self.at_most
        chosen: list[int] = []
        for group in places.values():
            ordered = sorted(group, key=lambda i: (keyed_order(row_key(rows[i]), "limit"), i))
            chosen += ordered[:most]
        return [rows[i] for i in sorted(chosen)]


Rule = Annotated[
    Replace | Extract | Split | Keep | Drop | Threshold | Top | Limit, Field(discriminator="rule")
]


def apply_rules(rules: Sequence[Rule], rows: Sequence[Row]) -> list[Row]:
    """Apply ``rules`` in order.

    Examples
    --------
    >>> rule = Replace(rule="replace", column="text", pattern="<[^>]+>")
    >>> apply_rules([rule], [{"text": "a <b>bold</b> word"}])
    [{'text': 'a bold word'}]
    """
    cleaned = list(rows)
    for rule in rules:
        cleaned = rule.apply(cleaned)
    return cleaned
