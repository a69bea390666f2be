"""One measurement of the tiny suite, which the tests of this folder look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from taskloom.runs.claims.results import Results
from taskloom.runs.claims.run import Wanted, claims

from .suites import write_suite

#: a pool of two, full fine-tunes
PAIR = Wanted(seeds=[0], kinds=["full"], counts=[2])


@dataclass(frozen=True)
class Finished:
    """A suite, and what was measured on it."""

    suite: Path
    output: Path
    results: Results


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("claims")
    suite = write_suite(folder / "tiny.yaml")
    output = folder / "claims.json"
    return Finished(suite, output, claims([suite], PAIR, output=output))
