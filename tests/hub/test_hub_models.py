"""Hub ids with revisions against a server that speaks the hub's endpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from taskloom.errors import CheckpointError, SourceUnreachable
from taskloom.store.hub import hub_name, resolve_model
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import open_pool

from .server import TOKEN


def weights(value, count=4):
    return {"model.safetensors": save({"w": torch.full((count,), float(value))}, {"format": "pt"})}


def files(value=1.0):
    """What a repository usually holds, and more than anybody needs."""
    return weights(value) | {
        "config.json": b'{"model_type": "bert"}',
        "tokenizer.json": b"{}",
        "vocab.txt": b"a\nb\n",
        "README.md": b"---\nlicense: mit\n---\n",
        ".gitattributes": b"*.bin lfs",
        "pytorch_model.bin": b"a pickle",
        "training_args.bin": b"a pickle",
        "model.onnx": b"onnx",
        "onnx/config.json": b"{}",
        "consolidated.safetensors": b"the same once more",
        "original/params.json": b"{}",
        "checkpoint-5/model.safetensors": b"an older one",
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "modeling_custom.py": b"raise SystemExit",
    }


WANTED = {
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "vocab.txt",
}


def sharded():
    first, second = save({"a": torch.ones(3)}), save({"b": torch.zeros(2, 2)})
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"metadata": {"total_size": 28}, "weight_map": dict(zip("ab", names, strict=True))}
    return {
        names[0]: first,
        names[1]: second,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b"{}",
    }


def test_only_what_a_merge_needs_is_fetched(hub):
    hub.repo("org/small").commit(files())
    path = resolve_model("org/small")
    assert set(hub.fetched()) == WANTED
    found = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    assert found == WANTED
    assert open_checkpoint("org/small").read("w").tolist() == [1.0] * 4


def test_a_branch_is_resolved_to_its_commit(hub):
    repo = hub.repo("org/small")
    old = repo.commit(files(1), "main", "v1")
    new = repo.commit(files(2), "main")
    for revision, sha, value in [(None, new, 2), ("v1", old, 1), (old, old, 1), (new, new, 2)]:
        path = resolve_model("org/small", revision=revision)
        assert (path.name, hub_name(path)) == (sha, f"org/small@{sha}")
        assert open_checkpoint(path).read("w")[0] == value
    asked = {path.split("/")[4] for method, path, _ in hub.asked if "/resolve/" in path}
    assert asked == {old, new}, "files are asked for by commit, never by branch"


def test_a_revision_with_slashes(hub):
    sha = hub.repo("org/small").commit(files(), "refs/pr/1")
    assert resolve_model("org/small@refs/pr/1").name == sha


def test_a_branch_that_moves_is_noticed(hub):
    repo = hub.repo("org/small")
    repo.commit(files(1))
    assert open_checkpoint("org/small").read("w")[0] == 1
    repo.commit(files(2))
    assert open_checkpoint("org/small").read("w")[0] == 2


def test_what_did_not_change_is_not_fetched_again(hub):
    repo = hub.repo("org/small")
    repo.commit(files(1))
    resolve_model("org/small")
    repo.commit(files(1) | weights(2))
    hub.asked.clear()
    resolve_model("org/small")
    assert hub.fetched() == ["model.safetensors"]


def test_a_pinned_commit_that_is_cached_needs_no_hub(hub):
    sha = hub.repo("org/small").commit(files())
    path = resolve_model(f"org/small@{sha}")
    hub.asked.clear()
    assert resolve_model(f"org/small@{sha}") == path
    assert hub.fetched() == []
    hub.stop()
    assert resolve_model(f"org/small@{sha}") == path


@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_what_is_cached_works_offline(hub, monkeypatch, revision):
    hub.repo("org/small").commit(files(), "main", "v1")
    path = resolve_model("org/small", revision=revision)
    hub.stop()
    assert resolve_model("org/small", revision=revision) == path
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_model("org/small", revision=revision) == path
    with pytest.raises(SourceUnreachable, match="org/small at revision 'other' is not a local path"):
        resolve_model("org/small@other")


def test_a_hub_under_repair_is_like_none(hub):
    hub.repo("org/small").commit(files())
    path = resolve_model("org/small")
    hub.busy = True
    assert resolve_model("org/small") == path
    with pytest.raises(SourceUnreachable, match=r"org/other is not a local path.*503"):
        resolve_model("org/other")


def test_a_sharded_repository(hub):
    hub.repo("org/big").commit(sharded())
    checkpoint = open_checkpoint("org/big")
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {"a": (3,), "b": (2, 2)}
    assert checkpoint.read("b", slice(1, 2)).tolist() == [[0, 0]]


def test_a_shard_that_the_repository_lacks(hub):
    held = sharded()
    del held["model-00002-of-00002.safetensors"]
    hub.repo("org/big").commit(held)
    with pytest.raises(CheckpointError, match=r"'model-00002-of-00002\.safetensors' .* is missing"):
        open_checkpoint("org/big")


def test_an_adapter_from_the_hub(hub):
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["proj"]}
    prefix = "base_model.model.proj.lora_"
    factors = {f"{prefix}A.weight": torch.ones(1, 2), f"{prefix}B.weight": torch.ones(3, 1)}
    held = {"adapter_config.json": json.dumps(config).encode()}
    hub.repo("org/lora").commit(held | {"adapter_model.safetensors": save(factors)})
    base = {"proj.weight": torch.zeros(3, 2)}
    pool = open_pool(base, ["org/lora@main"])
    assert pool.names == ("lora",)
    assert pool.experts[0].checkpoint.read("proj.weight").tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("files_", [files(), {"config.json": b"{}", "pytorch_model.bin": b"x"}])
def test_pickles_are_fetched_only_where_nothing_else_is(hub, files_):
    hub.repo("org/small").commit(files_)
    resolve_model("org/small")
    assert "pytorch_model.bin" not in hub.fetched()
    resolve_model("org/small", allow_pickle=True)
    assert ("pytorch_model.bin" in hub.fetched()) == ("model.safetensors" not in files_)


def test_a_private_repository(hub, monkeypatch):
    hub.repo("org/secret", private=True).commit(files())
    with pytest.raises(SourceUnreachable) as caught:
        resolve_model("org/secret@main")
    assert str(caught.value) == (
        "org/secret at revision 'main': the hub has no such model, or it is private and shown only "
        "to its owners (status 401). Check the name; if it is private, log in with 'hf auth login' "
        "or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    path = resolve_model("org/secret")
    monkeypatch.delenv("HF_TOKEN")
    assert resolve_model("org/secret") == path, "what was fetched before still works"


def test_a_gated_repository(hub, monkeypatch):
    hub.repo("org/gated", gated=True).commit(files())
    with pytest.raises(SourceUnreachable, match=r"org/gated is gated: .* log in with 'hf auth login'"):
        resolve_model("org/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_checkpoint("org/gated").read("w").sum() == 4


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(SourceUnreachable, match="org/nothing: the hub has no such model"):
        resolve_model("org/nothing")


def test_a_revision_that_is_not_there(hub):
    hub.repo("org/small").commit(files())
    resolve_model("org/small")
    with pytest.raises(SourceUnreachable, match=r"org/small has no revision 'v9' on the hub.*branch"):
        resolve_model("org/small@v9")
    missing = "0" * 40
    with pytest.raises(SourceUnreachable, match=f"org/small has no revision '{missing}'"):
        resolve_model("org/small", revision=missing)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub):
    hub.repo("org/small").commit(weights(3, count=50_000) | {"config.json": b"{}"})
    hub.breaks["model.safetensors"] = [70_000, 50_000]
    assert open_checkpoint("org/small").read("w").sum() == 150_000
    ranges = [found for method, path, found in hub.asked if method == "GET" and "model.safe" in path]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(found.startswith("bytes=") for found in ranges[1:])


def test_a_hub_that_dies_in_the_middle_of_a_file(hub):
    hub.repo("org/small").commit(weights(3, count=50_000) | {"config.json": b"{}"})
    hub.breaks["model.safetensors"] = [0] * 50
    with pytest.raises(SourceUnreachable, match="org/small is not a local path, is not cached whole"):
        resolve_model("org/small")
    hub.stop()
    with pytest.raises(SourceUnreachable, match="try again"):
        resolve_model("org/small")  # the half that has arrived is not taken for the whole
    assert open_checkpoint({"w": torch.ones(1)})


def test_after_a_hub_that_died_the_same_call_goes_on(hub):
    hub.repo("org/small").commit(weights(3, count=50_000) | {"config.json": b"{}"})
    hub.breaks["model.safetensors"] = [0] * 50
    with pytest.raises(SourceUnreachable):
        resolve_model("org/small")
    hub.breaks.clear()
    assert open_checkpoint("org/small").read("w").sum() == 150_000


def test_an_older_snapshot_is_not_taken_for_the_newer_one_that_broke(hub):
    repo = hub.repo("org/small")
    old = repo.commit(weights(1))
    resolve_model("org/small")
    repo.commit(weights(2, count=50_000))
    hub.breaks["model.safetensors"] = [0] * 50
    with pytest.raises(SourceUnreachable, match="not cached whole"):
        resolve_model("org/small")
    assert resolve_model(f"org/small@{old}").name == old


def test_names_of_snapshots():
    sha = "0123456789abcdef" * 2 + "01234567"
    assert hub_name(f"/x/models--gpt2/snapshots/{sha}") == f"gpt2@{sha}"
    assert hub_name(f"/x/models--a--b-c/snapshots/{sha}/model.safetensors") == f"a/b-c@{sha}"
    assert hub_name("/x/models--a--b/snapshots/main") is None


def test_the_command_line_merges_hub_ids(hub, tmp_path):
    hub.repo("org/base").commit(files(0))
    hub.repo("org/one").commit(files(1), "v1")
    hub.repo("org/two").commit(files(3))
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    } | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "taskloom.cli.main", "merge", "--base", "org/base"]
    command += ["--expert", "org/one@v1", "--expert", "second=org/two", "--method", "average"]
    command += ["-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert open_checkpoint(tmp_path / "out").read("w").tolist() == [2.0] * 4
    done = subprocess.run(
        [word.replace("@v1", "@v2") for word in command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("error: org/one has no revision 'v2' on the hub")
