"""Merges of mergekit files on disk: verified, resumed, described, never taken for others."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

import taskloom
from taskloom.errors import IntegrityError, OutputError
from taskloom.runs.mergekit.api import merge_mergekit
from taskloom.store.card import front_matter
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

TIES = """
merge_method: ties
base_model: base
models:
- {model: a, parameters: {weight: [0.2, 1.0], density: 0.4}}
- {model: b, parameters: {weight: 0.7, density: 0.5}}
dtype: float32
"""
DARE = TIES.replace("ties", "dare_ties")
STACK = """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 3]}]
"""
CHAIN = """
name: first
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
---
merge_method: task_arithmetic
base_model: first
models: [{model: c, parameters: {weight: 0.5}}]
"""


def record(folder):
    return json.loads((folder / "taskloom.json").read_text())


@pytest.mark.parametrize("config", [TIES, DARE, STACK, CHAIN])
def test_the_sources_give_the_same_bytes_again(bench, monkeypatch, config):
    bench.merge(config, seed=3)
    monkeypatch.chdir("/")  # the record does not depend on where the command was given
    found = taskloom.verify(bench.folder / "out", everything=True)
    assert set(found.recomputed) == set(SafetensorsCheckpoint(bench.folder / "out").tensors)
    assert len(taskloom.verify(bench.folder / "out", sample=3).recomputed) == 3


def test_relative_paths_are_kept_absolute(bench, monkeypatch):
    monkeypatch.chdir(bench.zoo)
    path = bench.folder / "plain.yaml"
    path.write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n")
    merge_mergekit(path, bench.folder / "out")
    monkeypatch.chdir("/")
    assert taskloom.verify(bench.folder / "out").recomputed


def test_a_source_that_changed_is_noticed(bench):
    import shutil

    shutil.copytree(bench.zoo / "a", bench.folder / "mine")
    config = f"merge_method: linear\nmodels: [{{model: {bench.folder / 'mine'}}}, {{model: b}}]\n"
    bench.merge(config + "parameters: {weight: 1}")
    weights = bench.folder / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="mine"):
        taskloom.verify(bench.folder / "out")


def test_the_card_and_the_record(bench):
    bench.merge(TIES, seed=5)
    found = record(bench.folder / "out")
    assert found["recipe"]["method"] == "ties"
    assert yaml.safe_load(found["recipe"]["options"]["mergekit"])["base_model"].endswith("base")
    assert found["sources"]["seed"] == 5
    assert {entry["path"] for entry in found["sources"]["mergekit"].values()} == {
        str(bench.zoo / name) for name in ("base", "a", "b")
    }
    files = [file for entry in found["inputs"] for file in entry["files"]]
    assert len({file["sha256"] for file in files}) == len(files) == 3
    assert "README.md" in found["outputs"]["files"]
    assert "merge" in front_matter(bench.folder / "out")["tags"]
    text = (bench.folder / "out" / "README.md").read_text()
    assert "A merge of 2 experts of one base" in text
    assert "merge\\_method" not in text
    assert "merge_method: ties" in text


def test_a_base_that_is_an_intermediate_merge_is_the_base(bench):
    out = bench.merge(CHAIN)
    a, b, c = (bench.tensors(name) for name in "abc")
    for name, tensor in out.items():
        first = (a[name] + b[name]) / 2
        torch.testing.assert_close(tensor, first + 0.5 * (c[name] - first))


def test_an_intermediate_of_other_inputs_is_not_used_again(bench):
    path = bench.write(CHAIN)
    place = bench.folder / "mine"
    merge_mergekit(path, bench.folder / "out", intermediate=place)
    merge_mergekit(path, bench.folder / "again", intermediate=place)
    again, out = (record(bench.folder / name)["outputs"]["digest"] for name in ("again", "out"))
    assert again == out
    with pytest.raises(OutputError, match="was not made of this file and these inputs"):
        merge_mergekit(path, bench.folder / "other", intermediate=place, seed=1)
    (place / "first" / "config.json").unlink()
    with pytest.raises(OutputError, match="was not made of this file"):
        merge_mergekit(path, bench.folder / "other", intermediate=place)


KILL = """
    import os, signal, sys
    from taskloom.merging import crew
    from taskloom.cli.main import invoke

    path, out, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sync, done = crew.SafetensorsWriter.sync, []

    def die(self):
        sync(self)
        done.append(1)
        if len(done) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    crew.SafetensorsWriter.sync = die
    sys.exit(invoke(["--quiet", "merge", path, out, "--max-shard-size", "4KB"]))
"""


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_merge_goes_on_by_the_same_command(bench, after):
    path, script = bench.write(TIES), bench.folder / "kill.py"
    script.write_text(textwrap.dedent(KILL))
    merge_mergekit(path, bench.folder / "whole", max_shard_bytes=4000)
    command = [sys.executable, str(script), str(path), str(bench.folder / "out"), str(after)]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    first = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr.decode()
    assert not (bench.folder / "out").exists()
    report = merge_mergekit(path, bench.folder / "out", max_shard_bytes=4000)
    assert report.stages[0].tensors == 30
    found, wanted = record(bench.folder / "out"), record(bench.folder / "whole")
    assert found["resumed_shards"] == after - 1
    assert found["outputs"]["digest"] == wanted["outputs"]["digest"]
    shards = sorted(p.name for p in (bench.folder / "whole").glob("*.safetensors"))
    assert len(shards) > 4
    for name in shards:
        assert (bench.folder / "out" / name).read_bytes() == (bench.folder / "whole" / name).read_bytes()
    assert not (bench.folder / "out.partial").exists()
