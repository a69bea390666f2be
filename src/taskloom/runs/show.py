"""``taskloom.report``: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from taskloom.errors import OutputError
from taskloom.runs.report import write_report
from taskloom.runs.result import RunResult


def load_result(folder: str | Path) -> RunResult:
    """Read ``result.json`` of a run folder.

    Raises
    ------
    OutputError
        The folder has no finished result, or one that cannot be read.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise OutputError(
            f"{str(folder)!r} holds no finished run (no result.json)",
            hint="Give a run folder, or finish it with: taskloom run PLAN",
        )
    try:
        return RunResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OutputError(
            f"{str(path)!r} is not a result this version reads: {where}: {first['msg']}",
            hint="Run the plan again; what is finished is not computed twice",
        ) from None


def report(folder: str | Path) -> Path:
    """Render ``report.html`` from ``result.json``; return its path."""
    return write_report(load_result(folder), Path(folder) / "report.html")
