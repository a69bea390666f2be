"""taskloom fit: coefficients learned on the small plan's tasks, held against its experts."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import OutputError, PlanError, UnknownName
from taskloom.learn.fitted import FitStopped, Fitted, Step
from taskloom.models.encoder import Encoder
from taskloom.progress import silent
from taskloom.runs.desk import open_desk
from taskloom.runs.fit import fit
from taskloom.runs.plan import Limits
from taskloom.runs.trace import save_trace, save_trace_picture, trace_chart
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .conftest import MICRO, temporaries

LIMITS = Limits(**MICRO["limits"])
#: without a fine-tune to be held against
ALONE = {"limits": LIMITS, "tuned": False}
TASKS = list(MICRO["pool"])
OWN = {"digits_parity": "parity", "digits_mod3": "mod3"}
QUICK = {"steps": 4, "rate": 0.05, "passes": 1}


def read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.usefixtures("sealed")
def test_coefficients_are_learned_scored_written_and_verified(base, named, tmp_path):
    found = fit(
        "adamerging",
        TASKS,
        base,
        named,
        options=QUICK,
        output=tmp_path / "out",
        trace=tmp_path / "fit.json",
        picture=tmp_path / "fit.svg",
        **ALONE,
    )
    assert list(found.scored) == ["base", "parity", "mod3", "average", "fitted"]
    assert found.fitted.said["examples"] == "digits_parity 60, digits_mod3 60"
    assert found.fitted.said["labels"] == "not used"
    values = found.fitted.options["values"]
    wanted, experts = read(base), {name: read(path) for name, path in named.items()}
    written = read(tmp_path / "out")
    for name, tensor in wanted.items():
        moved = tensor + sum(values[e][name] * (experts[e][name] - tensor) for e in experts)
        torch.testing.assert_close(written[name], moved, rtol=1e-5, atol=1e-6)
    taskloom.verify(tmp_path / "out", everything=True)
    record = json.loads((tmp_path / "out" / "taskloom.json").read_text())
    assert record["recipe"]["options"]["values"] == values
    assert record["fit"]["transductive"] == "no"
    assert "transductive" not in (tmp_path / "out" / "README.md").read_text()
    kept = json.loads((tmp_path / "fit.json").read_text())
    assert len(kept["trace"]) == 4
    assert kept["options"]["values"] == values
    assert (tmp_path / "fit.svg").read_text().startswith("<svg")
    assert temporaries(tmp_path) == []
    desk = open_desk(str(base), seed=0, progress=silent)
    for task, score in zip(TASKS, found.scored["fitted"].scores, strict=True):
        data = desk.load(task, LIMITS)
        features = Encoder.load(tmp_path / "out").features(data.validation.inputs)
        right = desk.head(data).predict(features) == data.validation.labels
        assert score.value == pytest.approx(float(np.mean(right)))


@pytest.mark.usefixtures("sealed")
def test_an_interrupted_fit_goes_on_where_it_was(base, named):
    options = {**QUICK, "per": "task", "rate": 0.07}

    def stop(label, done, total):
        if (label, done) == ("fit adamerging", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("adamerging", TASKS, base, named, options=options, progress=stop, **ALONE)
    resumed = fit("adamerging", TASKS, base, named, options=options, **ALONE).fitted
    whole = fit("adamerging", TASKS, base, named, options=options, **ALONE).fitted
    assert resumed.said["resumed"] == "after step 2"
    assert "resumed" not in whole.said
    assert resumed.options == whole.options


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("atlas", {"steps": 2}),
        ("atlas", {"setting": "training", "leave_out_own": False, "parts": 2, "steps": 2}),
        ("divmerge", {"steps": 2, "lean": True}),
        ("self_positioning", {"steps": 2}),
    ],
)
def test_every_method_runs_on_real_models(base, named, method, options):
    found = fit(method, TASKS, base, named, options=options, own=OWN, examples=20, **ALONE)
    assert len(found.fitted.trace) == 2
    assert found.path is None


def test_test_inputs_are_seen_without_labels_and_only_if_asked_for(base, named, tmp_path):
    more = {"options": QUICK, **ALONE}
    for half in ({"split": "test"}, {"transductive": True}):
        with pytest.raises(PlanError, match=r"has seen what it will be scored on, and both must be"):
            fit("adamerging", TASKS, base, named, **half, **more)
    out = tmp_path / "out"
    found = fit("adamerging", TASKS, base, named, split="test", transductive=True, output=out, **more)
    seen = "yes: inputs of the test split of digits_parity, digits_mod3, no labels"
    assert found.fitted.said["transductive"] == seen
    assert json.loads((out / "taskloom.json").read_text())["fit"] == dict(found.fitted.said)
    card = (out / "README.md").read_text()
    assert f"The fit was transductive ({seen}). A score on that split is not one on unseen" in card
    taskloom.verify(out, everything=True)
    with pytest.raises(taskloom.TaskloomError, match="labels of the test split are never used"):
        fit("atlas", TASKS, base, named, split="test", transductive=True, **ALONE)


@pytest.mark.usefixtures("sealed")
def test_a_loss_that_is_not_finite_leaves_the_last_good_numbers_in_a_file(base, named, tmp_path):
    options = {"shape": "free", "steps": 9, "rate": 1e30, "per": "task", "passes": 1}
    with pytest.raises(FitStopped, match=r"in step \d of 9.*out.stopped.json"):
        fit("adamerging", TASKS, base, named, options=options, output=tmp_path / "out", **ALONE)
    kept = json.loads((tmp_path / "out.stopped.json").read_text())
    assert all(math.isfinite(each) for each in kept["options"]["values"].values())
    assert "stopped" in kept["said"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "adamergin"}, UnknownName, "did you mean 'adamerging'"),
        ({"guard": "strikt"}, PlanError, "guard is 'strikt'. Say 'strict' or 'warn'"),
        ({"options": {"stepps": 3}}, PlanError, "did you mean 'steps'"),
        ({"tasks": []}, PlanError, "needs one task or more"),
        ({"tasks": [TASKS[0], TASKS[0]]}, PlanError, "is named twice"),
        ({"tasks": ["digits_party"]}, UnknownName, "digits_parity"),
        ({"trace": "fit.txt"}, PlanError, "ends with .json or .csv"),
        ({"picture": "fit.gif"}, PlanError, "ends with .png or .svg"),
        ({"own": {"digits_parity": "mod4"}}, PlanError, "Did you mean 'mod3'"),
    ],
)
@pytest.mark.usefixtures("sealed")
def test_bad_input_is_refused_by_name(base, named, changes, error, message):
    given = {"method": "adamerging", "tasks": TASKS, "base": base, "experts": named, "options": QUICK}
    with pytest.raises(error, match=message):
        fit(**{**given, **changes}, **ALONE)


@pytest.mark.usefixtures("sealed")
def test_an_output_that_exists_is_refused_before_anything_is_fitted(base, named, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="out"):
        fit("adamerging", TASKS, base, named, output=tmp_path / "out", **ALONE)


def test_a_trace_is_drawn_with_the_coefficients_of_every_expert(tmp_path):
    steps = [Step(n, 1 / n, n, {"mean a": 0.1 * n, "mean b": 0.2, "loss t": 1.0}) for n in (1, 2, 3)]
    fitted = Fitted("coefficients", {}, tuple(steps), {"objective": "entropy"})
    spec = trace_chart(fitted)
    rows = spec["data"]["values"]
    assert [r["value"] for r in rows if r["panel"] == "loss"] == [1.0, 0.5, 1 / 3]
    assert {r["of"] for r in rows if r["panel"] == "mean"} == {"a", "b"}
    assert len(spec["vconcat"]) == 2
    assert len(trace_chart(Fitted("average", {}, (Step(1, 0.5, 0.0),)))["vconcat"]) == 1
    assert save_trace_picture(fitted, tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    with save_trace(fitted, tmp_path / "t.csv").open() as file:
        assert [row["mean a"] for row in csv.DictReader(file)] == ["0.1", "0.2", str(0.1 * 3)]
    with pytest.raises(PlanError, match="no step to draw"):
        trace_chart(Fitted("average", {}))


@pytest.mark.usefixtures("sealed")
def test_the_command_line_tells_scores_and_the_verdict(base, named, tmp_path, capsys):
    words = ["fit", "adamerging", "--base", str(base), "--set", "steps=2", "--set", "passes=1"]
    for name, path in named.items():
        words += ["--expert", f"{name}={path}"]
    for task in TASKS:
        words += ["--task", task]
    words += [
        "--no-fine-tune",
        "--examples",
        "20",
        "--trace",
        str(tmp_path / "fit.csv"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert invoke(words) == 0
    told = capsys.readouterr().out
    for part in ("fitted", "average", "entropy", "mean validation score", "wrote"):
        assert part in told
    assert invoke([*words, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fitted"]["method"] == "coefficients"
    assert found["verdict"]["winner"] in ("base", "parity", "mod3", "average", "fitted")
    assert invoke([*words, "--own", "nothing"]) == 2
    assert "--own 'nothing' is not TASK=EXPERT" in capsys.readouterr().err
