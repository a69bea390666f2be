"""Lay out what the stages found as the records of a `RunResult`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from taskloom.evaluation.data import TaskData
from taskloom.evaluation.task import get_task
from taskloom.runs.candidates import Candidate
from taskloom.runs.plan import Plan
from taskloom.runs.result import LockRecord, Matrix, RunResult, ScoreRecord, TaskRecord


def task_name(reference: str) -> str:
    """Return the name of a task given by name or by the path of its annotation."""
    return get_task(reference).name


def task_records(pool: Sequence[TaskData], targets: Sequence[TaskData]) -> list[TaskRecord]:
    """Describe every task as it was used."""
    roles = [(data, "pool") for data in pool] + [(data, "target") for data in targets]
    return [
        TaskRecord(
            name=data.task.name,
            title=data.task.title,
            metric=data.task.metric,
            labels=list(data.task.label_names),
            n_train=len(data.train),
            n_validation=len(data.validation),
            n_test=data.n_test,
            removed_duplicates=data.removed_duplicates,
            source=data.task.source_summary,
            data_license=data.task.license.data,
            digest=data.digest,
            role=role,
        )
        for data, role in roles
    ]


def cosine_record(names: Sequence[str], values: list[list[float]]) -> Matrix | None:
    """Return the heatmap of task-vector cosines; None for a single expert."""
    if len(names) < 2:
        return None
    return Matrix(
        title="Task-vector cosine",
        rows=list(names),
        columns=list(names),
        values=[list(row) for row in values],
        row_label="Expert",
        column_label="Expert",
    )


def transfer_record(
    candidates: Sequence[Candidate],
    pool: Sequence[TaskData],
    targets: Sequence[TaskData],
    scores: Sequence[ScoreRecord],
) -> Matrix:
    """Return the heatmap of test score minus base, expert by task; below zero transfer hurts."""
    test = {(s.model, s.task): s.value for s in scores if s.split == "test"}
    experts = [c for c in candidates if c.kind == "expert"]
    columns = [data.task.name for data in [*pool, *targets]]
    return Matrix(
        title="Transfer: test score minus base",
        rows=[c.name.removeprefix("expert:") for c in experts],
        columns=columns,
        values=[[test[c.name, task] - test["base", task] for task in columns] for c in experts],
        row_label="Expert trained on",
        column_label="Scored on",
    )


def headline(result: RunResult) -> str:
    """Return the sentence a reader wants first."""
    if result.targets:
        return result.targets[0].sentence
    guard = result.guards[0]
    titles = {model.name: model.title for model in result.models}
    best = guard.best_merge_value if guard.winner == guard.best_merge else guard.best_single_value
    return (
        f"{titles[guard.winner]} is handed over: {guard.yardstick} {(best or 0.0) * 100:.1f} "
        f"against {guard.base_value * 100:.1f} for the base."
    )


def draft(plan: Plan, text: str, **found: Any) -> RunResult:
    """Assemble the result; handovers and lock are filled in when they exist."""
    empty = LockRecord(
        plan_digest=plan.digest,
        inputs={},
        versions={},
        platform="",
        seed=plan.seed,
        seconds={},
        peak_memory_bytes=0,
        skipped=[],
    )
    result = RunResult(
        name=plan.name,
        title=plan.title or plan.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        headline="",
        plan_yaml=text,
        handovers=[],
        lock=empty,
        **found,
    )
    return result.model_copy(update={"headline": headline(result)})
