"""LoRA experts on texts, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taskloom.runs.claims.results import read_results
from taskloom.runs.claims.run import Wanted, claims
from taskloom.runs.claims.stage import lay_ground, set_stage
from taskloom.runs.claims.suite import load_suite
from taskloom.store.adapter import AdapterCheckpoint

from .suites import text_suite

METHODS = ["base", "expert", "copa_merging", "emr", "sens_merging", "ties"]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return text_suite(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def stage(suite):
    return set_stage(lay_ground(load_suite(suite), 0), "lora", 3)


def test_adapters_are_merged_by_their_own_rules_and_as_full_models(suite, tmp_path):
    output = tmp_path / "claims.json"
    found = claims([suite], Wanted(kinds=["lora"], methods=METHODS, counts=[3]), output=output)
    assert [row.method for row in found.rows] == METHODS
    assert [row.failed for row in found.rows] == [None] * len(found.rows)
    rows = {row.method: row for row in found.rows}
    assert list(rows["copa_merging"].scores) == ["first", "second", "third"]
    base = rows["base"].stored_bytes
    assert rows["ties"].stored_bytes == base
    assert base < rows["copa_merging"].stored_bytes < rows["expert"].stored_bytes


def test_what_is_merged_is_what_some_expert_changed(stage):
    moved = set(stage.pool.tensors)
    adapter = AdapterCheckpoint(stage.trained[0].directory, stage.stored.base)
    assert moved == set(adapter.changed)
    assert not any("embeddings" in name or "LayerNorm" in name for name in moved)
    for expert, whole in zip(stage.pool.experts, stage.stored.experts, strict=True):
        for name in moved:
            assert torch.equal(expert.checkpoint.read(name), whole.checkpoint.read(name))
    kept = stage.kept_bytes + sum(info.nbytes for info in stage.pool.tensors.values())
    assert kept == stage.base_bytes


def test_a_pool_takes_the_first_tasks_and_its_bytes_are_those_of_the_files(stage):
    assert stage.first(2).names == ("first", "second")
    stored = [load_file(t.directory / "adapter_model.safetensors") for t in stage.trained[:2]]
    numbers = sum(t.numel() * t.element_size() for one in stored for t in one.values())
    assert 0 <= stage.expert_bytes(2) - stage.base_bytes - numbers < 20_000, "headers"


def test_statistics_are_collected_once_for_pools_of_every_size(stage):
    from taskloom.merging.recipe import Recipe

    chain = Recipe.of("sens_merging").chain
    small, large = stage.statistics(chain, 2), stage.statistics(chain, 3)
    assert list(small) == ["first", "second"]
    assert small["first"][0].digest() == large["first"][0].digest()
    assert set(json.loads(small["first"][0].table["gaps"])) == {"second", "third"}
    assert small["first"][0].table["examples"] == "4"
    assert set(small["first"][0].tensors()) <= set(stage.pool.tensors)
    assert stage.statistics(Recipe.of("ties").chain, 2) is None


def test_the_command_measures_trains_and_says_what_it_did(suite, tmp_path, cli):
    output = tmp_path / "out" / "claims.json"
    words = ["bench", "claims", "--suite", suite, "--experts", "lora", "--count", 2, "-o", output]
    status, told, _ = cli(*words, "--only", "base", "--only", "average", "--json")
    assert status == 0
    assert json.loads(told) == {"output": str(output), "rows": 2, "failed": 0}
    status, told, _ = cli(*words, "--only", "slerp", "--only", "copa_merging", "--seed", 0)
    assert status == 0
    assert f"{output}: 4 rows, 0 of them without a rule" in " ".join(told.split())
    assert [row.method for row in read_results(output).rows] == [
        "base",
        "average",
        "copa_merging",
        "slerp",
    ]


def test_the_command_trains_alone(suite, tmp_path, cli):
    output = tmp_path / "claims.json"
    words = ["bench", "claims", "--suite", suite, "--experts", "lora", "-o", output, "--train-only"]
    status, told, _ = cli(*words, "--only", "ties", "--json")
    assert status == 0
    found = json.loads(told)
    assert [(one["experts"], one["task"]) for one in found] == [
        ("lora", "first"),
        ("lora", "second"),
        ("lora", "third"),
    ]
    assert all(0 <= one["before"] <= 1 and one["seconds"] > 0 for one in found)
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "txt"], "unknown suite 'txt': did you mean 'text'"),
        (["--suite", "text", "--only", "tise"], "unknown merging method 'tise'"),
        (["--suite", "text", "--count", "99"], "a pool of 99 tasks is wanted of suite 'text'"),
        (["--experts", "lorra"], "'lorra' is not one of 'full', 'lora'"),
        (["--render", "--train-only"], "give one"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, cli):
    status, told, error = cli("bench", "claims", *words)
    assert status == 2
    assert told == ""
    assert said in error
    assert error.count("\n") == 1
