"""The leaderboard of one plan by its name: from files alone, or after measuring what they lack."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import DataError
from taskloom.progress import Progress, silent
from taskloom.runs.transfer.estimates import path_of, read_estimates
from taskloom.runs.transfer.leaderboard import Standing, leaderboard
from taskloom.runs.transfer.ledger import Matrix, read_matrix
from taskloom.runs.transfer.plan import load_transfer_plan
from taskloom.runs.transfer.run import output_of


def board(
    plan: str | Path,
    *,
    matrix: str | Path | None = None,
    way: str = "full",
    measure: bool = False,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    values: str | Path | None = None,
    progress: Progress = silent,
) -> list[Standing]:
    """Hold every estimator against a plan's matrix, the best first.

    Without ``measure`` nothing but the two files is read, which takes seconds.

    Parameters
    ----------
    plan
        Name of a built-in plan, or path of a YAML file.
    matrix
        The results file; ``benchmarks/results/transfer_NAME.json`` if None.
    way
        Of transfer.
    measure
        Measure first what the estimates lack.
    only, seeds
        What is measured; see `taskloom.runs.transfer.estimators.measure_estimates`.
    values
        Your own estimator: a JSON file, ``{"target": {"source": value}}``, higher is better.

    Raises
    ------
    PlanError, UnknownName, IntegrityError, OutputError
        A plan or name that does not exist, or files that do not belong together.
    DataError
        No matrix yet, or values that are none.
    """
    checked = load_transfer_plan(plan)
    path = output_of(checked) if matrix is None else Path(matrix)
    found = read_matrix(path)
    if not found.rows and not measure:
        raise DataError(f"{path}: there is no matrix yet", hint=f"Measure it: taskloom transfer {plan}")
    more = {} if values is None else {Path(values).stem: read_values(Path(values), found)}
    from taskloom.runs.transfer.estimators import estimators, measure_estimates

    if measure:
        estimates = measure_estimates(checked, matrix=path, only=only, seeds=seeds, progress=progress)
    else:
        estimates = read_estimates(path_of(path))
    if not found.rows:
        return []
    if estimates.rows:
        estimates.check(found, str(path_of(path)))
    looks_at = {each.name: each.looks_at for each in estimators(checked)}
    return leaderboard(found, estimates, way=way, looks_at=looks_at, more=more)


def read_values(path: Path, matrix: Matrix) -> dict[tuple[str, int], Mapping[str, float]]:
    """Read values of an estimator, ``{"target": {"source": value}}``.

    Raises
    ------
    DataError
        No such file or values; a target or source that the matrix does not have.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a JSON file of values, but: {' '.join(str(error).split())}",
            hint='Write {"target": {"source": value}}',
        ) from None
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected targets and their values, found {type(content).__name__}")
    plan = matrix.plan
    targets, sources = ([], []) if plan is None else (plan.targets, plan.sources)
    found: dict[tuple[str, int], Mapping[str, float]] = {}
    for target, row in content.items():
        if target not in targets:
            raise DataError(f"{path}: the matrix has no target {target!r}", hint=_there(targets))
        if not isinstance(row, Mapping):
            raise DataError(f"{path}: {target}: expected sources and values, found {row!r}")
        for source, value in row.items():
            if source not in sources:
                raise DataError(f"{path}: the matrix has no source {source!r}", hint=_there(sources))
            if not _is_number(value):
                raise DataError(
                    f"{path}: {source} on {target}: expected a finite number, found {value!r}",
                    hint="Leave out what could not be estimated: it ranks last",
                )
        found[target, 0] = {source: float(value) for source, value in row.items()}
    return found


def _there(names: Sequence[str]) -> str:
    return f"It has: {', '.join(names)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
