"""Rows measured by several processes: what they are told and say, and what comes of one that fails."""

from __future__ import annotations

import json
import sys
import time

import pytest

from taskloom.errors import DataError, OutputError, PlanError, UnknownName
from taskloom.runs.claims import crew, worker
from taskloom.runs.claims.crew import measure_together
from taskloom.runs.claims.jobs import Job, answer, complaint, understood
from taskloom.runs.claims.results import Row, read_results
from taskloom.runs.claims.run import Wanted, claims

#: stands for a worker: answers with a row, or does what the method's name says
SCRIPT = """
import json, os, signal, sys, time
for line in sys.stdin:
    job = json.loads(line)
    if job["method"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["method"] == "gone":
        print("Segmentation fault.", file=sys.stderr)
        sys.exit(3)
    if job["method"] == "wrong":
        said = {"error": "DataError", "message": "no data. Get some", "trace": ""}
        print(json.dumps(said), flush=True)
        continue
    if job["method"] == "bug":
        said = {"error": "KeyError", "message": "'x'", "trace": "File y"}
        print(json.dumps(said), flush=True)
        continue
    time.sleep(0.3 * (job["method"] == "slow"))
    row = {"suite": job["suite"], "experts": job["kind"], "seed": job["seed"], "count": job["count"],
           "method": job["method"], "options": {"threads": os.environ["OMP_NUM_THREADS"]},
           "failed": str(os.getpid())}
    print(json.dumps({"row": row}), flush=True)
"""


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(crew, "COMMAND", (sys.executable, "-S", "-c", SCRIPT))


def jobs(*methods):
    return (Job("tiny", "full", 0, 4, 2, method) for method in methods)


def together(*methods, workers=2, threads=1):
    rows = []
    measure_together(jobs(*methods), workers, rows.append, threads=threads)
    return rows


def test_a_job_and_a_row_are_a_line_each():
    (job,) = jobs("ties")
    assert Job.of_line(job.line()) == job
    assert str(job) == "ties on 2 full experts of suite 'tiny', seed 0"
    row = Row(suite="s", experts="full", seed=0, count=2, method="m", options={}, failed="no rule")
    assert answer(row).count("\n") == 1
    assert understood(answer(row)) == row


def test_an_error_has_its_class_and_words_on_the_other_side():
    told = UnknownName("suite", "txt", ["text"])
    with pytest.raises(UnknownName) as caught:
        understood(complaint(told, "trace"))
    assert str(caught.value) == str(told)
    assert caught.value.exit_code == 2
    with pytest.raises(RuntimeError, match=r"KeyError: 'x'\n.*line 3"):
        understood(complaint(KeyError("x"), "a trace with line 3"))


@pytest.mark.usefixtures("stand_in")
def test_every_job_has_its_row_and_processes_share_them():
    rows = together("slow", "a", "b", "c", threads=3)
    assert sorted(row.method for row in rows) == ["a", "b", "c", "slow"]
    assert rows[-1].method == "slow"
    assert len({row.failed for row in rows}) == 2, "processes"
    assert {row.options["threads"] for row in rows} == {"3"}


@pytest.mark.usefixtures("stand_in")
def test_there_are_no_more_processes_than_jobs():
    assert len(together("a", workers=3)) == 1
    assert together(workers=3) == []
    with pytest.raises(PlanError, match="0 workers cannot measure"):
        together("a", workers=0)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("method", "kind", "said"),
    [
        ("killed", OutputError, r"worker 2 was ended by SIGKILL while it measured killed on 2 full"),
        ("gone", OutputError, r"worker 2 ended with status 3 while .* \(it said: Segmentation fault\)"),
        ("wrong", DataError, r"^no data. Get some$"),
        ("bug", RuntimeError, r"KeyError: 'x'\nFile y"),
    ],
)
def test_one_that_fails_is_told_of_and_the_others_rows_are_kept(method, kind, said):
    rows = []
    with pytest.raises(kind, match=said):
        measure_together(jobs("slow", method, "never"), 2, rows.append, threads=1)
    assert [row.method for row in rows] == ["slow"]


@pytest.mark.usefixtures("stand_in")
def test_what_cannot_be_made_ready_is_told_when_the_rest_is_done():
    def stages():
        yield from jobs("slow", "a")
        raise PlanError("no such experts")

    rows = []
    with pytest.raises(PlanError, match="no such experts"):
        measure_together(stages(), 2, rows.append, threads=1)
    assert sorted(row.method for row in rows) == ["a", "slow"]


@pytest.mark.usefixtures("stand_in")
def test_an_interruption_ends_the_processes_at_once():
    def keep(row):
        raise KeyboardInterrupt

    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        measure_together(jobs("a", *["slow"] * 50), 2, keep, threads=1)
    assert time.perf_counter() - begun < 10


def test_a_worker_answers_jobs_and_ends_with_the_first_error(finished):
    (row,) = [row for row in finished.results.rows if row.method == "average"]
    said = []
    lines = [Job(str(finished.suite), "full", 0, 2, 2, m).line() for m in ("average", "tise", "ties")]
    assert worker.serve(lines, said.append) == 1
    assert len(said) == 2
    assert understood(said[0]).scores == row.scores
    assert json.loads(said[1])["error"] == "UnknownName"
    assert worker.serve([], said.append) == 0


def test_a_process_measures_what_is_measured_here(finished, tmp_path):
    wanted, told = Wanted(seeds=[0], kinds=["full"], counts=[2], methods=["average"]), []
    found = claims(
        [finished.suite],
        wanted,
        output=tmp_path / "claims.json",
        workers=2,
        progress=lambda *words: told.append(words),
    )
    assert found == read_results(tmp_path / "claims.json")
    (row,) = found.rows
    (same,) = [row for row in finished.results.rows if row.method == "average"]
    assert row.model_copy(update={"seconds": same.seconds}) == same
    assert [words[1:] for words in told if words[0] == "tiny: full, seed 0"] == [(0, 1), (1, 1)]
