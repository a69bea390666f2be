"""select, evaluate and train as library calls, on the experts of the small plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import taskloom
from taskloom.errors import CheckpointError, DataError, OutputError, PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.runs.evaluate import evaluate
from taskloom.runs.plan import Limits
from taskloom.runs.select import select
from taskloom.runs.train import train
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .conftest import MICRO, temporaries

LIMITS = Limits(**MICRO["limits"])


# --- select -----------------------------------------------------------------------------------


def test_select_agrees_with_the_run(micro, base, experts):
    named = dict(zip(MICRO["pool"], experts, strict=True))
    chosen = select("digits_ten", base, named, scores=["logme", "knn"], n_labels=40)
    ranking = chosen.rankings[0]
    entries = {e.expert.removeprefix("expert:"): e for e in micro.result.rankings[0].entries}
    for entry in ranking.entries:
        assert entry.rank == entries[entry.expert].rank
        assert entry.value == pytest.approx(entries[entry.expert].score, rel=1e-6)
    assert (chosen.target, chosen.n_labels) == ("digits_ten", 40)
    assert sum(chosen.agreement.values()) == 2


def test_select_leaves_the_test_split_sealed(base, experts, monkeypatch):
    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)
    found = select("digits_ten", base, experts, scores=["knn"], n_labels=30)
    assert len(found.rankings[0].entries) == 2


def test_select_refuses(base, experts):
    with pytest.raises(UnknownName, match="did you mean 'logme'"):
        select("digits_ten", base, experts, scores=["logm"])
    with pytest.raises(UnknownName, match="did you mean 'digits_ten'"):
        select("digits_tne", base, experts)
    with pytest.raises(DataError, match="too few for 10 classes"):
        select("digits_ten", base, experts, n_labels=5)
    with pytest.raises(CheckpointError):
        select("digits_ten", base, ["/nowhere/at/all"])


# --- evaluate ---------------------------------------------------------------------------------


def test_evaluate_agrees_with_the_run(micro, base, experts):
    named = dict(zip(MICRO["pool"], experts, strict=True))
    found = evaluate(named, MICRO["pool"], base=base, limits=LIMITS)
    assert [(s.model, s.task) for s in found] == [
        (m, t) for m in ("base", *MICRO["pool"]) for t in MICRO["pool"]
    ]
    wanted = {
        (s.model.removeprefix("expert:"), s.task): s for s in micro.result.scores if s.split == "test"
    }
    for s in found:
        same = wanted[s.model, s.task]
        assert (s.value, s.low, s.high, s.n) == (same.value, same.low, same.high, same.n)


def test_evaluate_takes_a_model_s_own_head(micro, base):
    folder = micro.folder / "handover" / "digits_ten"
    (_, own) = evaluate([str(folder)], ["digits_ten"], base=base, limits=LIMITS)
    assert own.value == pytest.approx(micro.result.targets[0].value)


def test_one_path_is_one_model(base, experts):
    found = evaluate(experts[0], ["digits_parity"], base=base, limits=LIMITS)
    assert len(found) == 2


def test_evaluate_refuses(base, experts, tmp_path):
    with pytest.raises(PlanError, match="'digits_parity' is named twice"):
        evaluate(experts, ["digits_parity", "digits_parity"], base=base)
    mine = Path(shutil.copytree(experts[0], tmp_path / "mine"))
    head = Head.load(mine, "digits_parity")
    Head(head.weight, head.bias, ("yes", "no"), "digits_parity").save(mine)
    with pytest.raises(CheckpointError, match=r"classes yes, no.*Remove that head"):
        evaluate([str(mine)], ["digits_parity"], base=base, limits=LIMITS)


# --- train ------------------------------------------------------------------------------------

OPTIONS = {"steps": 8, "batch_size": 16, "learning_rate": 0.003}


def test_train_gives_the_expert_that_the_run_trained(micro, base, experts, tmp_path):
    out = tmp_path / "deep" / "expert"
    found = train("digits_mod3", base, output=out, options=OPTIONS, limits=LIMITS)
    assert found.cached, "the run has trained it"
    assert found.directory == out
    assert SafetensorsCheckpoint(out).digest() == micro.result.lock.inputs["expert digits_mod3"]
    assert head_names(out) == ("digits_mod3",)
    (out / "model.safetensors").unlink()
    assert (Path(experts[1]) / "model.safetensors").exists(), "a copy: the cache is not touched"


def test_train_fits_the_head_on_base_features_of_train_alone(base, tmp_path):
    from taskloom.evaluation.load import load_task
    from taskloom.learn.head import fit_head

    found = train("digits_parity", base, output=tmp_path / "out", options=OPTIONS, limits=LIMITS)
    data = load_task("digits_parity", max_train=60, max_validation=40, max_test=60)
    features = Encoder.load(base).features(data.train.inputs)
    head = fit_head(features, data.train.labels, data.task.label_names, task="digits_parity")
    np.testing.assert_allclose(found.head.weight, head.weight, rtol=1e-5, atol=1e-6)


def test_train_refuses(base, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(PlanError, match="did you mean 'steps'"):
        train("digits_mod3", base, output=out, options={"stpes": 1})
    with pytest.raises(UnknownName, match="did you mean 'lora'"):
        train("digits_mod3", base, output=out, method="lroa")
    with pytest.raises(PlanError, match="method is 'full' and, among the options, 'lora'"):
        train("digits_mod3", base, output=out, options={"method": "lora"})
    with pytest.raises(UnknownName, match="did you mean 'digits_mod3'"):
        train("digits_mod", base, output=out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        train("digits_mod3", base, output=out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    assert not temporaries(tmp_path)


def test_the_verbs_are_the_library():
    assert (taskloom.select, taskloom.evaluate, taskloom.train) == (select, evaluate, train)
    assert callable(taskloom.run)
    assert callable(taskloom.report)
