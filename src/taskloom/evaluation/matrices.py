"""Scores laid out as matrices: who is how good at what, and who helps whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.errors import PlanError
from taskloom.evaluation.score import Score, ScoredSplit


@dataclass(frozen=True)
class Grid:
    """Values by row and column; None where nothing was measured."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


def score_matrix(scores: Sequence[Score], *, split: ScoredSplit = "test") -> Grid:
    """Return the value of each model (row) on each task (column), in order of first appearance.

    Raises
    ------
    PlanError
        A model was scored twice on one task and split.
    """
    chosen = [s for s in scores if s.split == split]
    rows = tuple(dict.fromkeys(s.model for s in chosen))
    columns = tuple(dict.fromkeys(s.task for s in chosen))
    values: dict[tuple[str, str], float] = {}
    for s in chosen:
        if (s.model, s.task) in values:
            raise PlanError(f"{s.model!r} has two {split} scores on task {s.task!r}, expected one")
        values[s.model, s.task] = s.value
    return Grid(rows, columns, tuple(tuple(values.get((r, c)) for c in columns) for r in rows))


def transfer_matrix(scores: Sequence[Score], *, base: str = "base", split: ScoredSplit = "test") -> Grid:
    """Return each model's value minus the base's on each task: below 0 is negative transfer.

    Raises
    ------
    PlanError
        The base was not scored, or a model was scored twice on one task.

    Examples
    --------
    >>> def s(model, task, value):
    ...     return Score(model, task, "test", "accuracy", value, 0, 1, "wilson", 4, 0)
    >>> transfer_matrix([s("base", "spam", 0.5), s("expert", "spam", 0.75)]).values
    ((0.25,),)
    """
    grid = score_matrix(scores, split=split)
    if base not in grid.rows:
        raise PlanError(f"there is no {split} score of the base {base!r} to compare with")
    ground = grid.values[grid.rows.index(base)]
    kept = [(row, line) for row, line in zip(grid.rows, grid.values, strict=True) if row != base]
    values = tuple(
        tuple(
            None if value is None or zero is None else value - zero
            for value, zero in zip(line, ground, strict=True)
        )
        for _, line in kept
    )
    return Grid(tuple(row for row, _ in kept), grid.columns, values)
