"""Means over seeds and tasks of what the results file holds, with intervals that say what they are over.

A cell is one seed and one task. Seeds and tasks are crossed: every seed has an expert of every task.
The mean of S x T cells varies with the seeds and with the tasks that happened to be taken, and its
interval must know both.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskloom.errors import DataError, MissingExtra
from taskloom.runs.claims.results import Row

#: (seed, suite, task) -> a number
Cells = Mapping[tuple[int, str, str], float]
#: what stands for the experts, each on its own task, among methods
EXPERT = "expert"


@dataclass(frozen=True)
class Scope:
    """Where something is measured: one kind of experts of a suite's first ``count`` tasks."""

    suite: str
    experts: str
    count: int


#: rows by method and scope
Index = Mapping[tuple[str, Scope], Sequence[Row]]


@dataclass(frozen=True)
class Mean:
    """A mean over cells with its 95 % interval; no interval where there is one task only."""

    value: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    tasks: int

    @property
    def n(self) -> str:
        """Say over what the mean is.

        >>> Mean(0.5, 0.4, 0.6, (0, 1, 2), 8).n, Mean(0.5, 0.4, 0.6, (0,), 8).n
        ('3 seeds x 8 tasks', '1 seed x 8 tasks')
        """
        seeds, tasks = len(self.seeds), self.tasks
        return f"{seeds} seed{'s' * (seeds > 1)} x {tasks} task{'s' * (tasks > 1)}"


def scopes(rows: Iterable[Row]) -> list[Scope]:
    """Return the pool of every suite and kind of experts that claims are checked on, sorted.

    It is the one with rows of most seeds, and of those the largest; the others belong to the picture of
    growing pools.
    """
    seeds: dict[Scope, set[int]] = {}
    for row in rows:
        seeds.setdefault(Scope(row.suite, row.experts, row.count), set()).add(row.seed)
    best: dict[tuple[str, str], Scope] = {}
    for scope in sorted(seeds, key=lambda scope: (len(seeds[scope]), scope.count)):
        best[scope.suite, scope.experts] = scope
    return [best[key] for key in sorted(best)]


def index(rows: Iterable[Row]) -> Index:
    """Return the rows by method and scope, one a seed, failed ones included."""
    found: dict[tuple[str, Scope], list[Row]] = {}
    for row in rows:
        found.setdefault((row.method, Scope(row.suite, row.experts, row.count)), []).append(row)
    return found


def accuracies(rows: Index, method: str, scope: Scope) -> dict[tuple[int, str, str], float]:
    """Return the accuracy of a method by cell; failed rows have none."""
    return {
        (row.seed, row.suite, task): score.value
        for row in rows.get((method, scope), ())
        for task, score in (row.scores or {}).items()
    }


def normalised(rows: Index, method: str, scope: Scope) -> dict[tuple[int, str, str], float]:
    """Return accuracy by that of the task's own expert of the same seed, by cell.

    Raises
    ------
    DataError
        An expert has no row, or gets no test example of its own task right.
    """
    experts = accuracies(rows, EXPERT, scope)
    found = {}
    for cell, value in accuracies(rows, method, scope).items():
        if not experts.get(cell, 0.0) > 0:
            seed, suite, task = cell
            lacking = "is not in the results" if cell not in experts else "gets no test example right"
            where = f"suite {suite!r}, {scope.experts} experts, seed {seed}"
            raise DataError(
                f"{where}: the expert of {task!r} {lacking}",
                hint="Measure the experts first: taskloom bench claims does",
            )
        found[cell] = value / experts[cell]
    return found


def differences(one: Cells, other: Cells) -> dict[tuple[int, str, str], float]:
    """Return one minus the other, in the cells that both have."""
    return {cell: value - other[cell] for cell, value in one.items() if cell in other}


def crossed_mean(cells: Cells) -> Mean | None:
    """Return the mean over seeds and tasks with its 95 % interval, or None of no cells.

    Two-way analysis of variance, seeds and tasks random, one number a cell. The variance of the mean
    is ``(MS_tasks + max(MS_seeds - MS_rest, 0)) / (S T)``, its degrees of freedom are Satterthwaite's
    (Biometrics Bulletin 1946) and at least ``min(S, T) - 1``, and the interval is Student's. It treats
    tasks as a sample of tasks: with few of them it is wide, as it should be. Of one seed it is Student's
    interval over the tasks. Only seeds that have all tasks count; cells of different suites are tasks
    side by side.

    Examples
    --------
    >>> found = crossed_mean({(0, "s", task): value for task, value in zip("abc", [1.0, 2.0, 3.0])})
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    tasks = sorted({(suite, task) for _, suite, task in cells})
    seeds = sorted({seed for seed, _, _ in cells})
    whole = [seed for seed in seeds if all((seed, *task) in cells for task in tasks)]
    if not whole:
        return None
    table = np.array([[cells[seed, *task] for task in tasks] for seed in whole], dtype=np.float64)
    value = float(table.mean())
    if len(tasks) == 1:
        return Mean(value, None, None, tuple(whole), 1)
    variance, freedom = _spread(table)
    # what rounding leaves of equal numbers is no spread
    half = _student(freedom) * variance**0.5 if variance > (1e-14 * (1 + abs(value))) ** 2 else 0.0
    return Mean(value, value - half, value + half, tuple(whole), len(tasks))


def _spread(table: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Return the variance of the mean of (S, T) cells, T > 1, and its degrees of freedom."""
    seeds, tasks = table.shape
    mean = table.mean()
    of_tasks, of_seeds = table.mean(axis=0), table.mean(axis=1)
    ms_tasks = seeds * float(((of_tasks - mean) ** 2).sum()) / (tasks - 1)
    if seeds == 1:
        return ms_tasks / tasks, tasks - 1
    ms_seeds = tasks * float(((of_seeds - mean) ** 2).sum()) / (seeds - 1)
    rest = table - of_seeds[:, None] - of_tasks[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (tasks - 1))
    if ms_seeds <= ms_rest:
        return ms_tasks / (seeds * tasks), tasks - 1
    total = ms_tasks + ms_seeds - ms_rest
    parts = (
        ms_tasks**2 / (tasks - 1) + ms_seeds**2 / (seeds - 1) + ms_rest**2 / ((seeds - 1) * (tasks - 1))
    )
    # the difference of two estimates can be nearly nothing, and so would be its freedom
    return total / (seeds * tasks), max(total**2 / parts, min(seeds, tasks) - 1)


def _student(freedom: float) -> float:
    """Return the 0.975 quantile of Student's law."""
    try:
        special: Any = importlib.import_module("scipy.special")
    except ImportError as error:
        raise MissingExtra("scipy", "run", purpose="an interval over tasks") from error
    return float(special.stdtrit(freedom, 0.975))
