"""The merge of a round: tuned models into the next start, by any registered merging method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.merging.api import merge_files
from taskloom.progress import Progress, silent
from taskloom.runs.loops.workshop import Tuned
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


def merge_round(
    start: Path,
    tuned: Mapping[str, Tuned],
    target: Path,
    *,
    recipe: str = "average",
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, Any], ...]:
    """Merge tuned copies of ``start`` into ``target``; return what was merged.

    A target that an earlier, unfinished round has left is replaced.

    Raises
    ------
    UnknownName, PlanError, CheckpointError, NumericalError, OutputError
        As `taskloom.merge_files`.
    """
    settings = dict(options or {})
    merge_files(
        start,
        {name: each.path for name, each in tuned.items()},
        recipe,
        target,
        overwrite=True,
        discard=True,
        progress=progress,
        **settings,
    )
    weights = settings.get("weights")
    total = sum(weights) if weights else len(tuned)
    return tuple(
        {
            "name": name,
            "digest": SafetensorsCheckpoint(each.path).digest(),
            "steps": each.steps,
            "weight": (weights[place] if weights else 1) / total,
        }
        for place, (name, each) in enumerate(tuned.items())
    )
