"""taskloom select by weights and by Fisher information: nothing is run."""

from __future__ import annotations

import json

import pytest
import torch

from taskloom.choose.task_embedding import distances, fuse, taskemb_cosines
from taskloom.choose.task_vectors import cosine_matrix, sign_agreement_matrix
from taskloom.errors import PlanError
from taskloom.models.encoder import Encoder
from taskloom.progress import silent
from taskloom.runs.collect import collect
from taskloom.runs.compare import Compared, by_weights
from taskloom.runs.select import select
from taskloom.store.pool import open_pool
from taskloom.store.statistic import Statistic

from .conftest import MICRO

BASE = {"w": torch.zeros(4)}
POOL = open_pool(
    BASE,
    [{"w": torch.tensor([1.0, 1.0, -9.0, 1.0])}, {"w": torch.tensor([1.0, 1.0, 0.0, -0.1])}],
    names=["signs", "direction"],
)
TARGET = {"w": torch.tensor([1.0, 1.0, -0.1, 0.1])}


def test_by_the_weights_of_a_model_of_the_target():
    cosine = by_weights("task_vector_cosine", POOL, TARGET, silent)
    assert [entry.expert for entry in cosine.entries] == ["direction", "signs"]
    signs = by_weights("sign_agreement", POOL, TARGET, silent)
    assert [(e.expert, e.value) for e in signs.entries] == [
        ("signs", 1.0),
        ("direction", pytest.approx(2 / 3)),
    ]
    with pytest.raises(PlanError, match=r"'the target' .*expected a LoRA adapter"):
        by_weights("lora_similarity", POOL, TARGET, silent)


def fisher(*values, kind="fisher"):
    return Statistic.of(kind, {"w": torch.tensor([[v] for v in values]), "v": torch.tensor(values)})


def test_by_fisher_information():
    sources = {"a": fisher(1.0, 0.0), "b": fisher(1.0, 0.9)}
    known = Compared(fishers=sources, target_fisher=fisher(1.0, 1.0))
    pool = open_pool(BASE, [TARGET, TARGET], names=["a", "b"])
    found = known.rank("task2vec", pool, silent)
    wanted = distances(fisher(1.0, 1.0), sources)
    assert found.best == "b"
    assert found.values(["a", "b"]) == [-wanted["a"], -wanted["b"]]
    fused = known.rank("taskemb", pool, silent)
    assert fused.values(["a", "b"]) == [1 / 62, 1 / 61]
    with pytest.raises(PlanError, match="'a' has no Fisher information"):
        Compared(fishers={}, target_fisher=fisher(1.0)).rank("task2vec", pool, silent)
    odd = Compared(fishers={**sources, "c": fisher(1.0)}, target_fisher=fisher(1.0))
    with pytest.raises(PlanError, match="'c' has some Fisher information and is no expert"):
        odd.rank("taskemb", pool, silent)


@pytest.mark.parametrize(
    ("scores", "given"),
    [
        (["task2vec"], {}),
        (["taskemb"], {"fishers": {"a": fisher(1.0)}}),
        (["knn"], {"target_fisher": fisher(1.0)}),
        (["sign_agreement"], {}),
        (["knn"], {"target_model": "/nowhere"}),
    ],
)
def test_scores_and_what_they_look_at_go_together(scores, given):
    with pytest.raises(PlanError, match="go together"):
        select("digits_ten", "/nowhere", ["/nowhere"], scores=scores, **given)


def test_nothing_is_run(base, experts, monkeypatch):
    def run(*_, **__):
        raise AssertionError("an encoder was run")

    monkeypatch.setattr(Encoder, "features", run)
    pool = dict(zip(MICRO["pool"], experts, strict=True))
    scores = ["task_vector_cosine", "sign_agreement"]
    found = select("digits_ten", base, pool, scores=scores, target_model=experts[1], n_labels=40)
    for ranking in found.rankings:
        assert ranking.best == MICRO["pool"][1]
        assert ranking.entries[0].value == pytest.approx(1.0)
    opened = open_pool(base, [experts[1], experts[0]])
    first, second = (ranking.entries[1].value for ranking in found.rankings)
    assert first == pytest.approx(cosine_matrix(opened)[0, 1])
    assert second == pytest.approx(sign_agreement_matrix(opened)[0, 1])


def test_fisher_files_on_the_command_line(cli, base, experts, tmp_path):
    """The same model and task has the same embedding, so it comes first."""
    files = {}
    for name, path in zip(MICRO["pool"], experts, strict=True):
        found = collect("fisher", path, name, base=base, examples=12)
        files[name] = found.save(tmp_path / f"{name}.safetensors"), found
    words = ["select", "digits_ten", "--base", base, "--labels", 40, "--json"]
    for name, path in zip(MICRO["pool"], experts, strict=True):
        words += ["--expert", f"{name}={path}", "--fisher", f"{name}={files[name][0]}"]
    last = MICRO["pool"][1]
    status, out, err = cli(
        *words, "--target-fisher", files[last][0], "--score", "task2vec", "--score", "taskemb",
        "--score", "task_vector_cosine", "--target-model", experts[1],
    )  # fmt: skip
    assert status == 0, err
    rankings = json.loads(out)["rankings"]
    assert [ranking["entries"][0]["expert"] for ranking in rankings] == [last] * 3
    target, sources = files[last][1], {name: found for name, (_, found) in files.items()}
    wanted = fuse(taskemb_cosines(target, sources))
    assert rankings[1]["entries"][1]["value"] == pytest.approx(wanted[MICRO["pool"][0]])
