"""Models by path or hub id, with a hub that is a function of this test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taskloom.errors import CheckpointError, MissingExtra, SourceUnreachable
from taskloom.store.hub import resolve_model
from taskloom.store.open import open_checkpoint

hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """A hub that always answers; returns what it was asked."""
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return asked


def unreachable(monkeypatch, error, cached=None):
    def snapshot_download(name, *, local_files_only=False, **options):
        if not local_files_only:
            raise error
        if cached is None:
            raise errors.LocalEntryNotFoundError("not cached")
        return str(cached)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)


def test_what_exists_is_a_path(tmp_path, calls, monkeypatch):
    assert resolve_model(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve_model("owner/name") == Path("owner/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/owner") == tmp_path / "owner"
    assert calls == []


@pytest.mark.parametrize(
    ("spec", "revision", "name", "wanted"),
    [
        ("o/m", None, "o/m", None),
        ("o/m@v1.0", None, "o/m", "v1.0"),
        ("o/m", "refs/pr/3", "o/m", "refs/pr/3"),
        ("o/m@abc", "abc", "o/m", "abc"),
        ("gpt2", None, "gpt2", None),
    ],
)
def test_ids_and_revisions(calls, tmp_path, spec, revision, name, wanted):
    assert resolve_model(spec, revision=revision) == tmp_path
    assert [(each[0], each[1]["revision"]) for each in calls] == [(name, wanted)]


@pytest.mark.parametrize("allowed", [False, True])
def test_pickles_are_fetched_only_when_allowed(calls, allowed):
    resolve_model("o/m", allow_pickle=allowed)
    patterns = calls[-1][1]["allow_patterns"]
    assert ("*.bin" in patterns) == allowed
    assert {"*.safetensors", "*.json", "*.txt"} <= set(patterns)


@pytest.mark.parametrize(
    "spec",
    ["./missing", "a/b/c", "/no/such", "x.safetensors", "o/m.bin", "o/m@", "o/../m", "o/", "", "a b"],
)
def test_what_is_neither_path_nor_id(calls, spec):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        resolve_model(spec)
    assert calls == []


def test_two_revisions(calls):
    with pytest.raises(CheckpointError, match="two revisions are given, 'a' and 'b'"):
        resolve_model("o/m@a", revision="b")
    with pytest.raises(CheckpointError, match="cannot be a hub id"):
        resolve_model("o/m@../x")


FAILURES = [
    errors.LocalEntryNotFoundError("Cannot find it.\nMore"),
    errors.OfflineModeIsEnabled("Cannot reach the hub.\nMore"),
    ConnectionError("no route"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_unreachable(monkeypatch, tmp_path, error):
    unreachable(monkeypatch, error)
    with pytest.raises(SourceUnreachable, match="o/m at revision 'v1' is not a local path") as caught:
        resolve_model("o/m@v1")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    unreachable(monkeypatch, error, cached=tmp_path)
    assert resolve_model("o/m@v1") == tmp_path, "what is cached still works"


def test_errors_of_the_http_client_count_as_unreachable(monkeypatch):
    connect_error = type("ConnectError", (Exception,), {"__module__": "httpx"})
    unreachable(monkeypatch, connect_error("connection refused"))
    with pytest.raises(SourceUnreachable, match="connection refused"):
        resolve_model("o/m")


def test_mistakes_in_our_own_call_are_not_hidden(monkeypatch):
    unreachable(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        resolve_model("o/m")


def test_really_offline():
    with pytest.raises(SourceUnreachable, match="taskloom-tests/no-such-model"):
        resolve_model("taskloom-tests/no-such-model")


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"taskloom\[run\]"):
        resolve_model("o/m")


def test_a_hub_id_opens(calls, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    assert open_checkpoint("o/m@v1").read("w").tolist() == [1, 1]
    (tmp_path / "model.safetensors").unlink()
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        open_checkpoint("o/m")
