"""Large features stay in their files: mapped into memory, the same numbers, and safe when replaced."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.choose.scores import gbc, h_score, logme, parc, transrate
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.progress import silent
from taskloom.runs import workspace as module
from taskloom.runs.desk import open_desk
from taskloom.runs.workspace import Workspace


def test_large_arrays_are_mapped_and_small_ones_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAPPED", 1000)
    stash = Workspace(tmp_path)
    small, large = np.arange(10.0), np.arange(1000.0)
    assert stash.keep_array("x", "small", small) is small
    kept = stash.keep_array("x", "large", large)
    assert isinstance(kept, np.memmap)
    for key, value in (("small", small), ("large", large)):
        found = stash.array("x", key)
        assert found is not None
        np.testing.assert_array_equal(found, value)
        assert isinstance(found, np.memmap) == (key == "large")
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1.0
    stash.keep_array("x", "large", large + 1)  # replaced beside, not written into
    assert kept[0] == 0.0
    assert stash.skipped == {"x": 2}


def test_a_damaged_large_file_is_no_array(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAPPED", 1000)
    stash = Workspace(tmp_path)
    stash.keep_array("x", "large", np.arange(1000.0))
    path = stash.entry("x", "large", ".npy")
    path.write_bytes(path.read_bytes()[:2000])
    assert stash.array("x", "large") is None


def test_features_of_a_source_are_mapped(base, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAPPED", 1000)
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path))
    desk = open_desk(base, seed=0, progress=silent)
    data = load_task("digits_ten", n_labels=40)
    found = desk.reader.read([desk.base], [data], "train")["base", "digits_ten"]
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, Encoder.load(base).features(data.train.inputs))
    again = desk.reader.read([desk.base], [data], "train")["base", "digits_ten"]
    assert isinstance(again, np.memmap)


@pytest.mark.parametrize("score", [logme, h_score, transrate, gbc, parc])
def test_scores_take_mapped_features(score, tmp_path):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 8)).astype(np.float32), np.arange(60) % 3
    np.save(tmp_path / "f.npy", features)
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert score(mapped, labels) == score(features, labels)
