"""A grid of two digits tasks on two targets, measured once for all tests of this folder."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskloom.runs.transfer.ledger import Matrix
from taskloom.runs.transfer.run import transfer

from ..claims.suites import write_suite

STEPS = {"steps": 3, "batch_size": 8, "learning_rate": 0.003}
SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Two digits tasks on two targets",
    "sources": {"suite": "", "only": ["digits_mod3"], "also": ["digits_loop"]},
    "targets": ["digits_ten", "digits_mod3"],
    "labels": 40,
    "test": 50,
    "ways": {"full": STEPS, "merge": {"method": "task_arithmetic", "scale": 0.5}, "zero_shot": {}},
    "seeds": [0, 1],
}


def small(suite: Path, **changes: Any) -> dict[str, Any]:
    """Return the small plan with some top-level keys replaced."""
    plan = {**copy.deepcopy(SMALL), **copy.deepcopy(changes)}
    plan["sources"]["suite"] = str(suite)
    return plan


@dataclass(frozen=True)
class Finished:
    """A suite, and a matrix of it."""

    suite: Path
    output: Path
    matrix: Matrix
    heard: list[tuple[str, float, float | None]]


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("transfer")
    suite, output = write_suite(folder / "tiny.yaml"), folder / "matrix.json"
    heard: list[tuple[str, float, float | None]] = []
    matrix = transfer(small(suite), output=output, progress=lambda *told: heard.append(told))
    return Finished(suite, output, matrix, heard)
