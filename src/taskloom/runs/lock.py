"""The lock: what went into a run, so that two runs can be told apart or known to be the same."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from taskloom.merging.api import peak_memory
from taskloom.runs.plan import Plan
from taskloom.runs.result import LockRecord
from taskloom.runs.workspace import Workspace, numeric_versions


def versions() -> dict[str, str]:
    """Return the installed version of every package that can change a number."""
    found = {"python": platform.python_version()}
    for package in ("taskloom", "safetensors", "peft"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | numeric_versions()


def make_lock(plan: Plan, inputs: dict[str, str], workspace: Workspace) -> LockRecord:
    """Collect the lock of a finished run.

    Parameters
    ----------
    inputs
        What was read -> SHA-256: base, experts, task data.
    """
    skipped = [f"{count} {kind}" for kind, count in sorted(workspace.skipped.items())]
    return LockRecord(
        plan_digest=plan.digest,
        inputs=inputs,
        versions=versions(),
        platform=f"{platform.system()} {platform.machine()}",
        seed=plan.seed,
        seconds={name: round(seconds, 3) for name, seconds in workspace.seconds.items()},
        peak_memory_bytes=peak_memory(),
        skipped=skipped,
    )
