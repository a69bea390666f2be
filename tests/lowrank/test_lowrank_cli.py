"""The verbs: extract, and merge --as-adapter."""

from __future__ import annotations

import json

import pytest
import torch
from lowrank_models import config_of, raw_base

import taskloom
from taskloom.cli.main import invoke


@pytest.fixture
def models(tmp_path):
    torch.manual_seed(0)
    base = {"a.fc.weight": torch.randn(8, 6), "a.fc.bias": torch.zeros(8), "norm.weight": torch.ones(6)}
    raw_base(tmp_path / "base", base)
    for name in ("one", "two"):
        tuned = {key: value + torch.randn(value.shape) for key, value in base.items()}
        raw_base(tmp_path / name, tuned)
    return tmp_path


def told(capsys, *words):
    status = invoke([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_extract_prints_a_table_or_json(models, capsys):
    words = ("extract", models / "base", models / "one", "--energy", "0.9")
    status, out, _ = told(capsys, *words, "-o", models / "x")
    assert status == 0
    assert "a.fc.weight" in out
    assert "low-rank" in out
    assert "energy kept" in out
    status, out, _ = told(capsys, *words, "-o", models / "x", "--force", "--json", "--max-rank", 2)
    found = json.loads(out)
    (matrix,) = (t for t in found["tensors"] if t["name"] == "a.fc.weight")
    assert (matrix["stored"], matrix["rank"]) == ("low-rank", 2)
    assert matrix["energy"] == pytest.approx(1 - matrix["error"] ** 2)
    assert found["error"] > 0
    assert config_of(models / "x")["modules_to_save"] == ["norm"]


def test_extract_hands_its_options_over(models, capsys, monkeypatch):
    seen = {}

    def call(*words, **options):
        seen.update(options, words=words)
        raise taskloom.TaskloomError("enough")

    monkeypatch.setattr(taskloom, "extract", call)
    status, _, err = told(
        capsys,
        *("extract", "b", "e", "-o", models / "x", "--rank", 3, "--include", "q", "--include", "v"),
        *("--exclude", "k", "--whole", "head", "--embedding", "tab", "--fan-in-fan-out", "--drop-rest"),
        *("--exact-up-to", 9, "--seed", 4, "--allow-pickle"),
    )
    assert (status, err) == (1, "error: enough\n")
    del seen["progress"]
    assert seen == {
        "words": ("b", "e", models / "x"),
        "rank": 3,
        "energy": None,
        "max_rank": None,
        "include": ("q", "v"),
        "exclude": ("k",),
        "whole": ("head",),
        "embeddings": ("tab",),
        "fan_in_fan_out": True,
        "drop_rest": True,
        "exact_up_to": 9,
        "seed": 4,
        "overwrite": False,
        "allow_pickle": True,
    }


def test_extract_without_rank_is_one_line(models, capsys):
    status, _, err = told(capsys, "extract", models / "base", models / "one", "-o", models / "x")
    assert status == 2
    assert err == "error: expected a rank or an energy, found neither. Give one of them\n"


def test_merge_as_adapter(models, capsys):
    for name in ("one", "two"):
        taskloom.extract(models / "base", models / name, models / f"{name}-lora", rank=2)
    words = ["merge", "--base", models / "base", "--method", "task_arithmetic", "--set", "scale=0.5"]
    for name in ("one", "two"):
        words += ["--expert", models / f"{name}-lora"]
    status, out, _ = told(capsys, *words, "-o", models / "m", "--as-adapter")
    assert status == 0
    assert "2 adapters" in out
    assert "rank 4 to 4" in out
    status, out, _ = told(capsys, *words, "-o", models / "n", "--as-adapter", "--rank", 1, "--json")
    found = json.loads(out)
    assert found["modules"][0]["rank"] == 1
    assert found["weights"] == {"one-lora": 0.5, "two-lora": 0.5}
    assert config_of(models / "m")["r"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rank", "3"], "go with --as-adapter"),
        (["--energy", "0.5"], "go with --as-adapter"),
        (["--as-adapter"], "needs the --base"),
    ],
)
def test_merge_options_that_do_not_go_together(models, capsys, words, message):
    call = ["merge", "--expert", models / "one", "--method", "average", "-o", models / "m", *words]
    status, _, err = told(capsys, *call)
    assert status == 2
    assert message in err


def test_a_method_that_is_not_linear_is_one_line(models, capsys):
    taskloom.extract(models / "base", models / "one", models / "lora", rank=2)
    status, _, err = told(
        capsys,
        *("merge", "--base", models / "base", "--expert", models / "lora", "--method", "ties"),
        *("-o", models / "m", "--as-adapter"),
    )
    assert status == 2
    assert err.count("\n") == 1
    assert "not a linear combination" in err
