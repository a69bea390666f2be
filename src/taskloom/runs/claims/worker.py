"""The process behind ``taskloom bench claims --workers``: reads jobs, answers with rows.

Started as ``python -m taskloom.runs.claims.worker`` by `taskloom.runs.claims.crew`; it ends when there
are no more jobs, so also when whoever gives them is gone.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable

from taskloom.runs.claims.jobs import Job, answer, complaint
from taskloom.runs.claims.measure import Measurer
from taskloom.runs.claims.results import Row
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import lay_ground, set_stage
from taskloom.runs.claims.suite import load_suite


class Bench:
    """Measures jobs, and keeps what the next one of the same suite, seed and experts needs."""

    def __init__(self) -> None:
        self._of: tuple[str, str, int, int] | None = None
        self._measurer: Measurer | None = None

    def row(self, job: Job) -> Row:
        """Measure one row."""
        wanted = job.suite, job.kind, job.seed, job.upto
        if self._measurer is None or self._of != wanted:
            self._measurer = None  # the old one's weights go before the new one's come
            self._measurer, self._of = _measurer(job), wanted
        return self._measurer.row(job.method, job.count)


def _measurer(job: Job) -> Measurer:
    suite = load_suite(job.suite)
    ground = lay_ground(suite, job.seed)
    scorer = Scorer(ground.encoder, ground.tasks, ground.heads, suite.evaluation)
    return Measurer(set_stage(ground, job.kind, job.upto), scorer)


def serve(jobs: Iterable[str], say: Callable[[str], object]) -> int:
    """Answer every line; return 1 after the first error, which is said, and 0 after the last job."""
    bench = Bench()
    for line in jobs:
        try:
            said = answer(bench.row(Job.of_line(line)))
        except Exception as error:
            say(complaint(error, traceback.format_exc()))
            return 1
        say(said)
    return 0


def main() -> int:
    """Serve standard input and output; what libraries print goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return serve(sys.stdin, out.write)


if __name__ == "__main__":
    sys.exit(main())
