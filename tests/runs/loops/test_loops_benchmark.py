"""benchmarks/loops.py: rows are measured once, a run that was stopped goes on, tables are of rows."""

from __future__ import annotations

import itertools
import json

import pytest

from benchmark_scripts import load_benchmark
from taskloom.models.build import init_encoder

SPEC = {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}
TASKS = ["digits_parity", "digits_mod3"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return init_encoder(SPEC, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def bench(base, cache, monkeypatch):
    """The benchmark, with one loop on small data in place of its four."""
    module = load_benchmark("loops")
    monkeypatch.setattr("taskloom.learn.head.GRID", (0.1,))
    monkeypatch.setattr(module, "base_directory", lambda plan, progress: base)
    monkeypatch.setattr(module, "LIMITS", {"train": 48, "validation": 32, "test": 48})
    monkeypatch.setattr(module, "TRAIN", {"batch_size": 16, "learning_rate": 3e-3})
    monkeypatch.setattr(module, "RUNS", {"atm": ("ATM", "atm", TASKS, {"rounds": 2, "steps": 2})})
    return module


def facts(path):
    """Return all of the rows but what clocks say."""
    rows = json.loads(path.read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def after(bench, count):
    """Return a clock that says after so many reports that the time is up."""
    calls = itertools.count(1)

    def told(label, done, total, /):
        if next(calls) > count:
            raise bench.TimeIsUp

    return told


def test_a_run_that_was_stopped_goes_on_to_the_same_rows(bench, tmp_path, monkeypatch):
    """The time is up after every so many reports; nothing is measured twice."""
    words = ["measure", "--seeds", "0", "--output"]
    output, whole = tmp_path / "rows.json", tmp_path / "whole.json"
    ended = []
    while not ended or ended[-1]:
        monkeypatch.setattr(bench, "clock", lambda end: after(bench, 40))  # a merge here is 22
        ended.append(bench.main([*words, str(output)]))
        assert len(ended) < 20
    assert len(ended) > 1
    stopped = facts(output)
    with monkeypatch.context() as another:
        another.setattr(bench, "clock", lambda end: after(bench, 10**6))
        another.setenv("TASKLOOM_CACHE", str(tmp_path / "another"))
        assert bench.main([*words, str(whole)]) == 0
    assert facts(whole) == stopped
    monkeypatch.setattr(bench, "loop", None)  # what is there is not measured again
    assert bench.main([*words, str(output)]) == 0
    (row,) = stopped
    assert {rival["name"]: rival["steps"] for rival in row["compared"]} == {
        "start": 0,
        "joint": 8,
        "one-shot": 8,
    }
    for rival in row["compared"]:
        assert rival["gain"] == pytest.approx(row["score"] - rival["score"], abs=1e-5)
        assert rival["low"] <= rival["gain"] <= rival["high"]


def rows(bench):
    """Return rows of two seeds, as they would be measured."""
    return [
        {
            "loop": "atm",
            "seed": seed,
            "settings": bench.settings("atm"),
            "steps": 8,
            "score": 0.5 + 0.2 * seed,
            "n": 64,
            "seconds": 1.0,
            "compared": [
                {
                    "name": "joint",
                    "what": "tuned on both",
                    "steps": 8,
                    "score": 0.5,
                    "gain": 0.2 * seed,
                    "low": -0.1,
                    "high": 0.3,
                }
            ],
        }
        for seed in (0, 1)
    ]


def test_the_tables_are_those_of_the_rows(bench, tmp_path):
    output = tmp_path / "rows.json"
    with pytest.raises(SystemExit, match=r"has no rows yet; run: python benchmarks/loops\.py measure"):
        bench.main(["show", "--output", str(output)])
    for row in reversed(rows(bench)):
        bench.add(output, row)
    assert [row["seed"] for row in bench.read(output)] == [0, 1]
    bench.main(["show", "--output", str(output)])
    text = output.with_suffix(".md").read_text()
    assert "## ATM\n\nSeeds: 0, 1.\n" in text
    assert "| **the loop** | 8 | 0.600 | n = 64 a seed |" in text
    assert "| joint: tuned on both | 8 | 0.500 | +0.100 (+0.000 to +0.200) |" in text


def test_rows_of_other_settings_are_measured_again(bench, tmp_path, monkeypatch):
    output = tmp_path / "rows.json"
    bench.add(output, rows(bench)[0])
    assert len(bench.read(output)) == 1
    monkeypatch.setattr(bench, "TRAIN", {"batch_size": 8, "learning_rate": 3e-3})
    assert bench.read(output) == []


def test_what_it_runs_is_known():
    """The loops, their tasks and options as they stand in the file are taken by the program."""
    from taskloom.evaluation.task import get_task
    from taskloom.registry import get

    module = load_benchmark("loops")
    for _, method, tasks, options in module.RUNS.values():
        get("loop", method).validate(options)
        assert [get_task(task).name for task in tasks] == tasks
    if module.RESULTS.is_file():
        page = module.RESULTS.with_suffix(".md").read_text(encoding="utf-8")
        assert page == module.page(module.read(module.RESULTS)), "run: python benchmarks/loops.py show"
