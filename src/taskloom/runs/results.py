"""Lay out what the stages found as the records of a `RunResult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from taskloom.evaluation.data import TaskData
from taskloom.runs.candidates import Candidate
from taskloom.runs.plan import Plan
from taskloom.runs.result import (
    GuardRecord,
    LockRecord,
    Matrix,
    RunResult,
    ScoreRecord,
    TaskRecord,
)


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


def pool_sentence(guard: GuardRecord, titles: Mapping[str, str]) -> str:
    """Say what is handed over for the tasks of the pool, and by which yardstick it was chosen."""
    base = f"{guard.base_value * 100:.1f}"
    if guard.winner == "base":
        return f"The base is handed over: no expert and no merge beats its {guard.yardstick} of {base}."
    merge = guard.winner == guard.best_merge
    value = guard.best_merge_value if merge else guard.best_single_value
    told = f"{titles[guard.winner]} is handed over: {guard.yardstick} {(value or 0.0) * 100:.1f}"
    if guard.winner in guard.refused:
        single = "the base" if guard.best_single == "base" else titles[guard.best_single]
        rival = f"{guard.best_single_value * 100:.1f} for {single}, to which it loses"
        return f"{told} against {rival}."
    return f"{told} against {base} for the base."


def headline(result: RunResult) -> str:
    """Return the sentence a reader wants first."""
    if result.targets:
        return result.targets[0].sentence
    return pool_sentence(result.guards[0], titles(result))


def titles(result: RunResult) -> dict[str, str]:
    """Return what a reader sees for each model name."""
    return {model.name: model.title for model in result.models}


def warnings(result: RunResult) -> list[str]:
    """Return what a reader should know before using what is handed over."""
    found = [
        f"{guard.scope}: {titles(result)[guard.winner]} is handed over because the plan says guard: "
        f"warn, though it loses to {titles(result)[guard.best_single]} ({guard.yardstick} "
        f"{(guard.best_merge_value or 0.0) * 100:.1f} against {guard.best_single_value * 100:.1f})"
        for guard in result.guards
        if guard.winner in guard.refused
    ]
    found += [
        f"{target.target}: {titles(result)[target.reuse]} was chosen on {target.n_labels} labels and "
        f"is worse than the base on test ({target.gain * 100:+.1f} points)"
        for target in result.targets
        if target.gain_high < 0
    ]
    return found


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
    return result.model_copy(update={"headline": headline(result), "warnings": warnings(result)})
