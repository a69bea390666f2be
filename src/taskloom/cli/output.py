"""How results are printed: JSON for machines, tables and lines for people."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from taskloom.runs.result import RunResult

#: columns of a table that no terminal limits
WIDE = 160


def experts(count: int) -> str:
    """Return a number of experts in words.

    >>> experts(1), experts(2)
    ('1 expert', '2 experts')
    """
    return f"{count} expert{'' if count == 1 else 's'}"


def plain(value: Any) -> Any:
    """Turn models, dataclasses, paths and arrays into JSON types; NaN and infinity become null.

    >>> plain({"n": (1, float("nan")), "at": PurePath("a/b")})
    {'n': [1, None], 'at': 'a/b'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, PurePath):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="python"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def on_device(told: Mapping[str, Any]) -> str:
    """Say what a merge takes of a device other than the CPU."""
    taken = told.get("device_memory_bytes")
    return "" if taken is None else f" and {taken / 1e6:,.0f} MB on {told['device']}"


def room(told: Mapping[str, Any]) -> str:
    """Say where a merge goes, and what room there is."""
    if "bytes_free" in told:
        return f"; {told['bytes_free'] / 1e6:,.0f} MB free on disk"
    if "scratch" in told:
        free = told["scratch_bytes_free"] / 1e6
        return f"; to {told['output']} by way of {told['scratch']}, with {free:,.0f} MB free"
    return ""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; a column whose name ends in ``>`` is aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table)


def print_run(result: RunResult) -> None:
    """Print what a run found: the headline, the leaderboard, a sentence per target, where it is."""
    # what was made for one target alone has no mean over the pool
    means = [(mean, model) for model in result.models if (mean := _mean(result, model.name)) is not None]
    means.sort(key=lambda pair: pair[0], reverse=True)
    click.echo(f"{result.headline}\n")
    print_table(
        "Mean test score over the tasks of the pool",
        ["model", "kind", "mean>"],
        [[model.title, model.kind, f"{mean:.3f}"] for mean, model in means],
    )
    for target in result.targets:
        if target.sentence != result.headline:
            click.echo(target.sentence)
    for handover in result.handovers:
        click.echo(f"handed over: {handover.path} ({handover.reproduces})")
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)


def _mean(result: RunResult, model: str) -> float | None:
    pool = {task.name for task in result.tasks if task.role == "pool"}
    values = [
        score.value
        for score in result.scores
        if score.model == model and score.task in pool and score.split == "test"
    ]
    return sum(values) / len(values) if values else None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)
