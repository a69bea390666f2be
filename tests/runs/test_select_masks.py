"""taskloom select by the overlap of sparse regions."""

from __future__ import annotations

import json

import pytest
import torch

from taskloom.errors import CheckpointError, PlanError
from taskloom.models.encoder import Encoder
from taskloom.runs.compare import by_masks
from taskloom.runs.select import select
from taskloom.store.statistic import Statistic


def mask(*marks, kind="graft"):
    return Statistic.of(kind, {"w": torch.tensor([float(mark) for mark in marks])})


TARGET = mask(1, 1, 1, 1, 0, 0, 0, 0)
MASKS = {
    "half": mask(1, 1, 0, 0, 0, 0, 0, 0),
    "most": mask(1, 1, 1, 0, 1, 1, 1, 1),
    "none": mask(*[0] * 8),
}


def test_experts_by_the_share_of_the_targets_mask():
    found = by_masks(("half", "most", "none"), MASKS, TARGET)
    assert found.score == "mask_overlap"
    assert [(e.expert, e.value, e.rank) for e in found.entries] == [
        ("most", 0.75, 1),
        ("half", 0.5, 2),
        ("none", 0.0, 3),
    ]


def test_masks_that_do_not_fit():
    with pytest.raises(PlanError, match="'other' has no mask"):
        by_masks(("half", "other"), MASKS, TARGET)
    with pytest.raises(PlanError, match="'most' has a mask and is no expert of the pool"):
        by_masks(("half", "none"), MASKS, TARGET)
    with pytest.raises(PlanError, match="expected the statistic 'graft', found 'fisher'"):
        by_masks(("half",), {"half": mask(1, kind="fisher")}, TARGET)
    with pytest.raises(CheckpointError, match="has other tensors"):
        by_masks(("half",), {"half": mask(1, 1)}, TARGET)


@pytest.fixture
def files(tmp_path):
    return {name: each.save(tmp_path / name) for name, each in {**MASKS, "target": TARGET}.items()}


def test_nothing_is_run_for_masks_alone(base, experts, files, monkeypatch):
    def run(*_, **__):
        raise AssertionError("an encoder was run")

    monkeypatch.setattr(Encoder, "features", run)
    pool = dict(zip(("half", "most"), experts, strict=True))
    masks = {name: files[name] for name in pool}
    found = select(
        "digits_ten", base, pool, scores=["mask_overlap"], masks=masks, target_mask=files["target"],
        n_labels=40,
    )  # fmt: skip
    assert [entry.expert for entry in found.rankings[0].entries] == ["most", "half"]
    assert found.agreement == {"most": 1, "half": 0}
    assert found.n_labels == 40


def test_beside_other_scores_in_the_order_asked_for(base, experts, files):
    pool = dict(zip(("half", "most"), experts, strict=True))
    found = select(
        "digits_ten", base, pool, scores=["knn", "mask_overlap", "logme"], n_labels=40,
        masks={name: files[name] for name in pool}, target_mask=files["target"],
    )  # fmt: skip
    assert [ranking.score for ranking in found.rankings] == ["knn", "mask_overlap", "logme"]


@pytest.mark.parametrize(
    ("scores", "given"),
    [
        (["mask_overlap"], {}),
        (["mask_overlap"], {"masks": MASKS}),
        (["knn"], {"masks": MASKS, "target_mask": TARGET}),
    ],
)
def test_score_and_masks_go_together(scores, given):
    with pytest.raises(PlanError, match="go together"):
        select("digits_ten", "/nowhere", ["/nowhere"], scores=scores, **given)


def test_on_the_command_line(cli, base, experts, files):
    words = ["select", "digits_ten", "--base", base, "--labels", "40", "--score", "mask_overlap"]
    for name, path in zip(("half", "most"), experts, strict=True):
        words += ["--expert", f"{name}={path}", "--mask", f"{name}={files[name]}"]
    status, out, err = cli(*words, "--target-mask", files["target"], "--json")
    assert status == 0, err
    (ranking,) = json.loads(out)["rankings"]
    assert [entry["expert"] for entry in ranking["entries"]] == ["most", "half"]
    status, _, err = cli(*words, "--mask", "half=x")
    assert (status, err.count("\n")) == (2, 1)
    assert "gives the expert 'half' twice" in err
    status, _, err = cli(*words, "--mask", "x")
    assert (status, "is not NAME=FILE" in err) == (2, True)
