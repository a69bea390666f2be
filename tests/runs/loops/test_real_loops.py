"""Loops of real encoders on the digits: same bytes when interrupted, scores told again, test sealed."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, OutputError, PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.load import load_task
from taskloom.learn import mixed
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.runs.loops.api import loop
from taskloom.runs.loops.contributor import contribute
from taskloom.runs.loops.federation import fuse, open_federation
from taskloom.runs.plan import Limits
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .toy import facts

TASKS = ["digits_parity", "digits_mod3", "digits_loop"]
LIMITS = Limits(train=48, validation=32, test=48)
TRAIN = {"batch_size": 16, "learning_rate": 3e-3}
SPEC = {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(init_encoder(SPEC, tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture(autouse=True)
def sealed(monkeypatch, cache):
    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)
    monkeypatch.setattr("taskloom.learn.head.GRID", (0.1,))  # many heads are fitted here


def go(method, base, tasks=TASKS, **more):
    options = {"rounds": 2, "steps": 2, **more.pop("options", {})}
    return loop(method, tasks, base, options=options, train=TRAIN, limits=LIMITS, **more)


def read(path):
    stored = SafetensorsCheckpoint(path)
    return {name: stored.read(name) for name in stored.tensors}


def test_atm_end_to_end(base, tmp_path):
    out = tmp_path / "out"
    found = go("atm", base, output=out, picture=tmp_path / "atm.svg")
    assert (found.method, found.tasks, found.steps) == ("atm", tuple(TASKS), 2 * 2 * 3)
    # the scores once more, from what was written
    encoder = Encoder.load(out)
    assert head_names(out) == tuple(sorted(TASKS))
    for score in found.last.scores:
        data = load_task(score.task, seed=0, max_train=48, max_validation=32, max_test=48)
        predicted = Head.load(out, score.task).predict(encoder.features(data.validation.inputs))
        assert score.value == float(np.mean(predicted == data.validation.labels))
        assert (score.split, score.n) == ("validation", 32)
        assert score.low < score.value < score.high
    assert {each.name: each.steps for each in found.compared} == {
        "start": 0,
        "joint": 12,
        "one-shot": 12,
    }
    for each in found.compared:
        assert [gain.task for gain in each.gains] == [*TASKS, "mean"]
        mean = sum(s.value for s in each.scores) / 3
        assert each.gains[-1].gain == pytest.approx(found.last.mean - mean)
    record = json.loads((out / "loop.json").read_text())
    assert [each["number"] for each in record["rounds"]] == [0, 1, 2]
    rows = list(csv.DictReader((out / "trace.csv").read_text().splitlines()))
    assert [float(row["mean"]) for row in rows] == [each.mean for each in found.rounds]
    assert rows[2]["merged"] == "; ".join(f"{task} 0.3333" for task in TASKS)
    assert (tmp_path / "atm.svg").read_text().startswith("<svg")
    assert found.last.digest == SafetensorsCheckpoint(out).digest()
    with pytest.raises(OutputError, match="exists"):
        go("atm", base, output=out)


def test_an_interrupted_loop_ends_with_the_same_bytes(base, tmp_path, monkeypatch, cache):
    wanted = go("atm", base, TASKS[:2], compare=False, output=tmp_path / "whole")
    (kept,) = (cache / "loops").iterdir()
    kept.rename(tmp_path / "elsewhere")
    take, taken = mixed.take_step, []

    def stops(*words):
        if len(taken) in (1, 7):
            taken.append("stopped")
            raise KeyboardInterrupt
        taken.append("step")
        return take(*words)

    monkeypatch.setattr(mixed, "take_step", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go("atm", base, TASKS[:2], compare=False)
    found = go("atm", base, TASKS[:2], compare=False, output=tmp_path / "again")
    assert facts(found.rounds) == facts(wanted.rounds)
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "again"))
    assert one.read_bytes() == two.read_bytes()
    # the 8 steps there are, and those of the two tunings that were cut off
    assert taken.count("step") <= 8 + 2 * 2
    before = len(taken)
    assert facts(go("atm", base, TASKS[:2], compare=False).rounds) == facts(wanted.rounds)
    assert len(taken) == before  # a finished loop trains nothing


def test_more_rounds_continue_and_other_options_begin_anew(base, cache):
    two = go("atm", base, TASKS[:2], compare=False)
    three = go("atm", base, TASKS[:2], compare=False, options={"rounds": 3})
    assert facts(three.rounds[:3]) == facts(two.rounds)
    assert len(list((cache / "loops").iterdir())) == 1
    go("atm", base, TASKS[:2], compare=False, options={"steps": 3, "rounds": 1})
    go("atm", base, TASKS[:2], compare=False, options={"rounds": 1}, seed=1)
    assert len(list((cache / "loops").iterdir())) == 3


def test_refining_a_merge(base, tmp_path):
    first = go("atm", base, TASKS[:2], compare=False, output=tmp_path / "first")
    more = go("atm", base, TASKS[:2], compare=False, start=str(tmp_path / "first"))
    assert more.rounds[0].digest == first.last.digest
    assert more.rounds[0].scores == first.last.scores
    other = init_encoder({**SPEC, "hidden": 8}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="expected"):
        go("atm", base, TASKS[:2], start=str(other))


def test_forkmerge_end_to_end(base):
    options = {"targets": [TASKS[0]], "top": [0, 1], "rank_steps": 2}
    found = go("forkmerge", base, options=options)
    assert [score.task for score in found.last.scores] == [TASKS[0]]
    assert found.steps == 2 * 2 + 2 * 2 * 2  # two rankings, two rounds of two branches
    assert {each.name: each.steps for each in found.compared} == {
        "start": 0,
        "single-task": 4,
        "equal-weight": 4,
    }
    best = max(trial["value"] for trial in found.last.tried)
    assert found.last.mean == pytest.approx(best)


def test_contributors_with_a_folder_do_what_the_loop_in_one_process_does(base, tmp_path):
    found = go("cold", base, TASKS[:2], compare=False, output=tmp_path / "one")
    open_federation(base, tmp_path / "x")
    for number in range(2):
        for task in TASKS[:2]:
            (done,) = contribute(tmp_path / "x", task, steps=2, train=TRAIN, limits=LIMITS)
            assert (done.number, done.contributor, done.handed_in) == (number, task, True)
            assert done.examples == 48
        fuse(tmp_path / "x", quorum=2)
    fused = read(tmp_path / "x" / "rounds" / "0002")
    assert all(torch.equal(tensor, fused[name]) for name, tensor in read(tmp_path / "one").items())
    record = json.loads((tmp_path / "x" / "rounds" / "0001.json").read_text())
    assert record["next"] == found.last.digest
    assert record["weights"] == dict.fromkeys(sorted(TASKS[:2]), 0.5)
    assert not list((tmp_path / "x").rglob("heads"))  # heads stay where they are


def test_a_contributor_that_is_too_late_says_so(base, tmp_path, monkeypatch):
    open_federation(base, tmp_path / "x")
    contribute(tmp_path / "x", TASKS[0], steps=2, train=TRAIN, limits=LIMITS)
    take = mixed.take_step

    def slow(*words):
        fuse(tmp_path / "x", quorum=1, deadline=0) if words[-2] == 0 else None
        return take(*words)

    monkeypatch.setattr(mixed, "take_step", slow)
    (done,) = contribute(tmp_path / "x", TASKS[1], steps=2, train=TRAIN, limits=LIMITS)
    assert (done.number, done.handed_in) == (0, False)


def test_cold_scores_unseen_tasks_by_probing(base):
    found = go("cold", base, options={"unseen": [TASKS[2]], "probe_steps": 2})
    names = [each.name for each in found.compared]
    assert names == ["start", "joint", "fused once", f"start for {TASKS[2]}"]
    assert [gain.task for gain in found.compared[-1].gains] == [TASKS[2], "mean"]
    assert [each["name"] for each in found.last.merged] == sorted(TASKS[:2])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"method": "atn"}, UnknownName, "did you mean 'atm'"),
        ({"tasks": TASKS[:1]}, PlanError, "two tasks or more, and there are 1"),
        ({"tasks": [TASKS[0]] * 2}, PlanError, "named twice"),
        ({"options": {"round": 2}}, PlanError, "did you mean 'rounds'"),
        ({"train": {"steps": 2}}, PlanError, "'steps' is set by the loop"),
        ({"train": {"batchsize": 2}}, PlanError, "did you mean 'batch_size'"),
        ({"picture": "a.pdf"}, PlanError, "ends with .png or .svg"),
        ({"tasks": ["digits_party", TASKS[0]]}, UnknownName, "did you mean 'digits_parity'"),
    ],
)
def test_bad_input_is_refused_at_once(base, change, error, said):
    given = {"method": "atm", "tasks": TASKS, "base": base, "limits": LIMITS, **change}
    with pytest.raises(error, match=said):
        loop(**given)


def test_the_verbs(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("taskloom.runs.loops.api.Limits", lambda: LIMITS)
    monkeypatch.setattr("taskloom.runs.loops.contributor.Limits", lambda: LIMITS)

    def cli(*words):
        status = invoke([str(word) for word in words])
        return status, capsys.readouterr()

    words = ["loop", "--method", "atm", "--base", base, "--task", TASKS[0], "--task", TASKS[1]]
    words += ["--set", "rounds=1", "--set", "steps=2", "--train", "batch_size=16"]
    status, said = cli(*words, "--table", tmp_path / "t.csv", "-o", tmp_path / "out")
    assert status == 0, said.err
    assert "one-shot" in said.out
    assert "atm: 4 steps in 1 rounds" in said.out
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "out" / "trace.csv").read_text()
    status, said = cli(*words, "--json")
    assert json.loads(said.out)["rounds"][1]["number"] == 1
    exchange = ["--exchange", tmp_path / "x"]
    status, said = cli("cold", "open", "--base", base, *exchange)
    assert "round 0 is open" in said.out
    words = ["--steps", 2, "--train", "batch_size=16"]
    status, said = cli("cold", "contribute", *exchange, "--task", TASKS[0], *words)
    assert "tuned on 48 examples" in said.out
    assert "handed in" in said.out
    words = ["--model", base, "--examples", 5, "--json"]
    status, said = cli("cold", "offer", *exchange, "--as", "lab", *words)
    assert json.loads(said.out)["contributor"] == "lab"
    (tmp_path / "x" / "contributions" / "0000" / "junk").mkdir()
    status, said = cli("cold", "fuse", *exchange, "--quorum", 2)
    assert f"closed by the quorum: {TASKS[0]} 0.5, lab 0.5" in said.out
    assert "junk: unfinished: it has no manifest yet" in said.out
    status, said = cli("cold", "fuse", *exchange, "--deadline", 0)
    assert status == 4
    assert "expected 1 contributions to round 1" in said.err
