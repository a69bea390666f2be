"""taskloom select by surrogates: made once, found again, and told beside the full models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from taskloom.choose.scores import logme
from taskloom.choose.space_map import open_map
from taskloom.choose.surrogates.esm import esm
from taskloom.errors import CheckpointError, DataError
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.runs.select import select

from .conftest import MICRO

LABELS = 40


@pytest.fixture
def pool(experts):
    return dict(zip(MICRO["pool"], experts, strict=True))


def test_made_ranked_by_and_found_again(base, pool, tmp_path, cli):
    scores = ["logme", ("h_score", {"regularised": True})]
    found = select("digits_ten", base, pool, scores=scores, surrogates=tmp_path, n_labels=LABELS)
    data = load_task("digits_ten", n_labels=LABELS)
    inputs = np.concatenate([data.train.inputs, data.validation.inputs])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    encoder = Encoder.load(base)
    for name, path in pool.items():
        source = load_task(name, max_train=500).train.inputs
        fit = esm(encoder.features(source), Encoder.load(path).features(source))
        wanted = logme(fit.apply(encoder.features(inputs)), labels)
        assert found.rankings[0].values([name]) == [pytest.approx(wanted, abs=1e-4)]
        np.testing.assert_allclose(
            open_map(tmp_path / f"{name}.safetensors").weight, fit.weight, atol=1e-5
        )
    for cost in found.surrogates:
        stored = tmp_path / f"{cost.expert}.safetensors"
        assert cost.map_bytes == stored.stat().st_size < cost.model_bytes
        assert cost.model_bytes == (Path(pool[cost.expert]) / "model.safetensors").stat().st_size
        assert cost.made
        assert cost.explained <= 1
        assert min(cost.make_seconds, cost.map_seconds, cost.model_seconds) > 0
    words = ["select", "digits_ten", "--base", base, "--labels", LABELS, "--score", "logme"]
    for name, path in pool.items():
        words += ["--expert", f"{name}={path}"]
    status, out, err = cli(*words, "--surrogates", tmp_path)
    assert status == 0, err
    assert "What the experts' surrogates cost" in out
    assert out.count("(before)") == 2


def test_the_source_is_not_run_when_its_map_is_there(base, pool, tmp_path, monkeypatch):
    select("digits_ten", base, pool, scores=["logme"], surrogates=tmp_path, n_labels=LABELS)
    whole = Encoder.features
    ran = []

    def counted(self, inputs, *, weights=None, **more):
        ran.append(weights is not None)
        return whole(self, inputs, weights=weights, **more)

    monkeypatch.setattr(Encoder, "features", counted)
    again = select(
        "digits_ten", base, pool, scores=["logme"], surrogates=tmp_path, n_labels=LABELS, seed=5
    )
    assert not any(cost.made for cost in again.surrogates)
    assert len(ran) <= 2  # the base alone, on the two parts of the labels


def test_a_map_of_other_weights_is_refused(base, pool, tmp_path):
    select("digits_ten", base, pool, scores=["logme"], surrogates=tmp_path, n_labels=LABELS)
    first, second = pool
    shutil.copy(tmp_path / f"{first}.safetensors", tmp_path / f"{second}.safetensors")
    with pytest.raises(CheckpointError, match="made of another expert than that given"):
        select("digits_ten", base, pool, scores=["logme"], surrogates=tmp_path, n_labels=LABELS)


def test_a_source_of_which_nobody_knows_the_task(base, pool, tmp_path):
    bare = Path(shutil.copytree(pool["digits_mod3"], tmp_path / "bare"))
    shutil.rmtree(bare / "heads")
    with pytest.raises(DataError, match=r"'bare': a surrogate is made from examples .* --trained-on"):
        select("digits_ten", base, {"bare": str(bare)}, surrogates=tmp_path / "maps", n_labels=LABELS)
    assert not (tmp_path / "maps").exists()
