"""Small modules fitted on the small plan's tasks, held against its experts and the merge below."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, IntegrityError, OutputError, PlanError, UnknownName
from taskloom.learn.modules.kit.artefact import open_fitted
from taskloom.learn.modules.kit.opening import open_module
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.fit_module import fit_on_merge
from taskloom.runs.plan import Limits
from taskloom.store.open import open_checkpoint

from .conftest import MICRO, temporaries

#: without a fine-tune to be held against
ALONE = {"limits": Limits(**MICRO["limits"]), "tuned": False}
TASKS = list(MICRO["pool"])
OWN = {"digits_parity": "parity", "digits_mod3": "mod3"}


@pytest.mark.usefixtures("sealed")
def test_surgery_on_the_average(base, named, tmp_path):
    found = fit_on_merge(
        "surgery",
        TASKS,
        base,
        named,
        own=OWN,
        options={"steps": 30, "rank": 4, "learning_rate": 0.01},
        output=tmp_path / "surgery",
        **ALONE,
    )
    report = found.report
    assert list(report.scored) == ["base", "parity", "mod3", "average", "fitted"]
    assert [len(row.scores) for row in report.scored.values()] == [2] * 5
    assert report.fitted.said["examples"] == "digits_parity 60, digits_mod3 60"
    assert report.path == tmp_path / "surgery"
    opened = open_module(report.path, Encoder.load(base).module)
    assert opened.tasks == tuple(TASKS)
    assert opened.fitted.digest() == found.module.digest()
    assert temporaries(tmp_path) == []


def test_that_test_inputs_were_seen_is_told_and_written(base, named, tmp_path, cli):
    words = ["fit", "surgery", "--base", base, "--no-fine-tune", "--set", "steps=2"]
    words += [w for name, path in named.items() for w in ("--expert", f"{name}={path}")]
    words += ["--task", TASKS[0], "--own", f"{TASKS[0]}=parity", "--labels", 16]
    status, out, err = cli(*words, "-o", tmp_path / "seen", "--transductive")
    assert status == 0, err
    seen = f"yes: inputs of the test split of {TASKS[0]}, no labels"
    assert f"transductive: {seen}" in out
    assert open_fitted(tmp_path / "seen").said["transductive"] == seen
    assert f"The fit was transductive ({seen})" in (tmp_path / "seen" / "README.md").read_text()
    status, out, err = cli(*words, "-o", tmp_path / "unseen")
    assert status == 0, err
    assert "transductive" not in out
    assert open_fitted(tmp_path / "unseen").said["transductive"] == "no"
    assert "transductive" not in (tmp_path / "unseen" / "README.md").read_text()


@pytest.mark.usefixtures("sealed")
def test_the_folder_of_a_module_appears_whole(base, named, tmp_path, monkeypatch):
    """Heads and card are there with the rest or not at all, and no part of its bytes."""
    out, options = tmp_path / "out", {"steps": 1, "rank": 4}
    more = {"own": OWN, "options": options, **ALONE}
    found = fit_on_merge("surgery", TASKS, base, named, output=out, **more)
    table = json.loads((out / "module.json").read_text())
    assert table["guard"]["reason"] == found.report.verdict.reason
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert present == {"module.json", *table["files"], *table["card"]}
    assert set(table["card"]) == {"README.md", *(f"heads/{task}.safetensors" for task in TASKS)}
    for name, told in {**table["files"], **table["card"]}.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == told["sha256"]
    assert (out / "README.md").read_text().startswith("# out\n\n## Why this model\n")
    assert open_fitted(out).bytes_stored == found.module.bytes_stored
    (out / "heads" / f"{TASKS[0]}.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"digits_parity\.safetensors is not what was written"):
        open_fitted(out)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Head, "save", full)
    with pytest.raises(OutputError, match="full"):
        fit_on_merge("surgery", TASKS, base, named, output=tmp_path / "none", **more)
    assert not (tmp_path / "none").exists()
    assert not temporaries(tmp_path)


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wemoe", {"steps": 2, "start": 0.4}),
        ("tinting", {"epochs": 2}),
    ],
)
def test_what_each_sits_on(base, named, name, options):
    found = fit_on_merge(name, TASKS, base, named, own=OWN, options=options, **ALONE)
    report = found.report
    assert report.path is None
    assert list(report.scored) == ["base", "parity", "mod3", "average", "merged", "fitted"]
    assert 0 <= report.scored["fitted"].value <= 1
    assert report.verdict.reason
    assert report.fitted.trace[-1].step == 2


@pytest.mark.usefixtures("sealed")
def test_a_module_that_changes_nothing_scores_as_the_merge_below(base, named):
    found = fit_on_merge("surgery_v2", TASKS, base, named, own=OWN, options={"steps": 0}, **ALONE).report
    assert found.scored["fitted"].value == found.scored["average"].value
    assert found.scored["fitted"].kept  # the guard only warns
    assert not found.scored["average"].kept


def test_the_router_sits_on_parts(base, named, tmp_path):
    with pytest.raises(PlanError, match="sits on the shared model and the parts beside it"):
        fit_on_merge("twin_router", TASKS, base, named, own=OWN, **ALONE)
    taskloom.merge_parts(base, named, "twin_merging", tmp_path / "parts")
    found = fit_on_merge(
        "twin_router",
        TASKS,
        base,
        named,
        own=OWN,
        merged=tmp_path / "parts",
        options={"epochs": 2},
        output=tmp_path / "router",
        **ALONE,
    )
    assert (tmp_path / "router" / "parts" / "model.safetensors").is_file()
    assert found.module.said["validation"]


def test_bad_input(base, named, tmp_path):
    with pytest.raises(UnknownName, match="unknown small module 'surgry': did you mean 'surgery'"):
        fit_on_merge("surgry", TASKS, base, named)
    with pytest.raises(PlanError, match="has no expert of its own"):
        fit_on_merge("surgery", TASKS, base, named, **ALONE)
    deeper = init_encoder({**MICRO["base"]["built"]["build"], "layers": 2}, tmp_path / "deeper")
    with pytest.raises(CheckpointError, match=r"'merged' \(.*deeper\): .* expected .* as in base"):
        fit_on_merge("surgery", TASKS, base, named, merged=deeper, own=OWN, **ALONE)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        fit_on_merge("surgery", TASKS, base, named, output=tmp_path / "there")
    with pytest.raises(PlanError, match="both must be asked for"):
        fit_on_merge("surgery", TASKS, base, named, transductive=True)
    with pytest.raises(PlanError, match="guard is 'strikt'"):
        fit_on_merge("surgery", TASKS, base, named, guard="strikt")
    with pytest.raises(PlanError, match="is no LoRA adapter"):
        fit_on_merge("cat", TASKS, base, named, **ALONE)


@pytest.mark.usefixtures("sealed")
def test_a_loss_that_is_not_finite_leaves_the_last_good_module(base, named, tmp_path, capsys):
    words = [
        "fit",
        "surgery",
        "--base",
        base,
        "--no-fine-tune",
        "-o",
        tmp_path / "out",
        "--examples",
        32,
    ]
    words += [w for name, path in named.items() for w in ("--expert", f"{name}={path}")]
    words += [w for task in TASKS for w in ("--task", task, "--own", f"{task}={OWN[task]}")]
    words += ["--set", "steps=9", "--set", "learning_rate=1e30"]
    assert invoke([str(word) for word in words]) == 9
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"the loss of task 'digits_\w+' is nan at step \d\. Lower learning_rate", said)
    assert re.search(r"; the module of step \d is kept\. It is in ", said)
    assert said.endswith(f"It is in {tmp_path / 'out.stopped'}")
    kept = open_fitted(tmp_path / "out.stopped")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.tensors.values())
    assert not (tmp_path / "out").exists()
    assert not temporaries(tmp_path)


@pytest.mark.usefixtures("sealed")
def test_a_module_that_loses_is_not_what_a_strict_guard_writes(base, named, tmp_path):
    options = {"steps": 40, "learning_rate": 30.0}
    more = {"own": OWN, "options": options, "guard": "strict", "output": tmp_path / "out", **ALONE}
    found = fit_on_merge("surgery", TASKS, base, named, **more)
    winner = found.report.verdict.winner
    assert winner in ("base", "parity", "mod3", "average")
    assert "fitted" in found.report.verdict.refused
    with pytest.raises(CheckpointError):
        open_fitted(tmp_path / "out")
    wanted = {"base": base, **named}.get(winner)
    if wanted is not None:
        assert open_checkpoint(tmp_path / "out").digest() == open_checkpoint(wanted).digest()


@pytest.mark.usefixtures("sealed")
def test_with_few_labels_a_module_is_fitted_for_every_fold(base, named):
    few = {"own": {TASKS[0]: "parity"}, "labels": 16, "options": {"steps": 2}, "tuned": False}
    found = fit_on_merge("surgery", TASKS[:1], base, named, **few).report
    assert found.verdict.folds == 5
    assert found.scored["fitted"].scores[0].n == 16
    assert found.fitted.said["examples"] == f"{TASKS[0]} 16"


@pytest.mark.usefixtures("sealed")
def test_a_graft_of_few_labels_is_a_model_a_part_and_a_mask(base, named, tmp_path, cli):
    """What the verb writes is restored, and chosen by, from its folder alone."""
    folders = {}
    for expert, task in (("parity", TASKS[0]), ("mod3", TASKS[1])):
        words = ["--base", base, "--expert", f"{expert}={named[expert]}", "--task", task]
        words += ["--labels", "16", "--no-fine-tune", "--set", "sparsity=0.05", "--set", "steps=2"]
        folders[expert] = tmp_path / expert
        status, out, err = cli("fit", "graft", *words, "-o", str(folders[expert]))
        assert status == 0, err
        assert "entries" in out
        assert "bytes beside the base; a checkpoint has" in out
        fitted = open_fitted(folders[expert])
        assert fitted.said["examples"] == f"{task} 16"
        assert fitted.said["labels"] == "used"
        assert fitted.bytes_stored < 0.2 * int(fitted.said["bytes_full"]) + 4096  # parts.json with it
    grafted = taskloom.restore_task(folders["parity"], base, TASKS[0], tmp_path / "model")
    wanted = taskloom.merge(base, [named["parity"]], "graft", statistics=[folders["parity"]])
    assert open_checkpoint(grafted.path).digest() == open_checkpoint(wanted).digest()
    words = ["select", "digits_ten", "--base", base, "--labels", "40", "--score", "mask_overlap"]
    for name, folder in folders.items():
        words += ["--expert", f"{name}={named[name]}", "--mask", f"{name}={folder}"]
    status, out, err = cli(*words, "--target-mask", str(folders["mod3"]), "--json")
    assert status == 0, err
    entries = json.loads(out)["rankings"][0]["entries"]
    assert entries[0]["expert"] == "mod3"
    assert entries[0]["value"] == 1.0
    assert 0 <= entries[1]["value"] < 1


@pytest.mark.usefixtures("sealed")
def test_on_the_command_line(base, named, tmp_path, capsys):
    words = ["--base", base, *(w for n, path in named.items() for w in ("--expert", f"{n}={path}"))]
    words += [w for task in TASKS for w in ("--task", task)]
    words += [w for task, name in OWN.items() for w in ("--own", f"{task}={name}")]
    out = tmp_path / "surgery"
    words += [
        "--no-fine-tune",
        "--set",
        "steps=2",
        "--examples",
        "20",
        "--trace",
        str(tmp_path / "t.csv"),
        "-o",
        str(out),
    ]
    assert invoke(["fit", "surgery", *words, "--merged", str(named["parity"])]) == 0
    said = capsys.readouterr().out
    assert "merged" in said
    assert f"wrote {out}" in said
    assert (tmp_path / "t.csv").read_text().startswith("step,loss,seconds,loss digits_parity")
    assert open_fitted(out).said["merged"] == str(named["parity"])
    assert invoke(["fit", "adamerging", *words, "--merged", str(named["parity"]), "--force"]) == 2
    assert "adamerging fits a merge of its own, and sits on none" in capsys.readouterr().err
    assert invoke(["fit", "surgry", *words, "--force"]) == 2
    told = capsys.readouterr().err
    assert "unknown fitting method or small module 'surgry': did you mean 'surgery'" in told
