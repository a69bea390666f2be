"""``taskloom.demo``: the built-in plans."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from taskloom.progress import Progress, silent
from taskloom.runs.pipeline import run
from taskloom.runs.result import RunResult


def plan_path(name: Literal["demo", "small"]) -> Path:
    """Return the file of a built-in plan."""
    return Path(str(files("taskloom.runs") / "plans" / f"{name}.yaml"))


def demo(
    *, small: bool = False, output: str | Path | None = None, progress: Progress = silent
) -> RunResult:
    """Run the built-in plan: eight text tasks and two targets, or a small one without downloads.

    Parameters
    ----------
    small
        scikit-learn's digits and a tiny vision transformer; needs no download.
    output
        Run folder; ``runs/demo`` or ``runs/small`` if None.
    """
    return run(plan_path("small" if small else "demo"), output=output, progress=progress)
