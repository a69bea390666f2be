"""2,400 malformed files: none crashes the process, hangs, takes memory, or leads out of its folder."""

from __future__ import annotations

import json
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskloom.errors import CheckpointError

from . import cases

many = settings(
    max_examples=480,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_malformed_files_are_opened_or_refused(tmp_path, kind):
    ground = cases.Ground(tmp_path / "ground", kind)
    seen = {"opened": 0, "refused": 0}

    @many
    @given(ground.strategy)
    def every(drawn):
        seen[ground.attempt(drawn)] += 1

    with cases.bounded_memory():
        every()
    assert seen["refused"] > 20
    assert seen["opened"] > 0, "some of what is drawn is good"
    assert sum(seen.values()) >= 400


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(cases.PLACES))
def test_no_place_of_an_index_leads_out(tmp_path_factory, place):
    ground = cases.Ground(tmp_path_factory.getbasetemp() / "places", "index")
    text = json.dumps({"weight_map": {"a": place}}).encode("utf-8", "surrogatepass")
    inside = place in ("one.safetensors", "./one.safetensors")
    assert ground.attempt(text) == ("opened" if inside else "refused")


# ---- the watch itself must be able to see


def test_the_watch_sees_what_is_opened_outside(tmp_path):
    (tmp_path / "secret").write_text("x")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "own").write_text("x")
    (inner / "link").symlink_to(tmp_path / "secret")
    with cases.watching(inner) as strays:
        (inner / "own").read_text()
        assert strays == []
        (inner / "link").read_text()
        assert strays == [str(tmp_path / "secret")]


def test_the_limits_stop_what_exceeds_them():
    with cases.bounded_memory(64 << 20), pytest.raises((RuntimeError, MemoryError)):
        torch.empty(1 << 30, dtype=torch.uint8)
    with pytest.raises(cases.HangError), cases.bounded_time(1):
        time.sleep(30)


def test_a_case_that_fails_is_told(tmp_path, monkeypatch):
    ground = cases.Ground(tmp_path / "ground", "header")

    def leaks(folder, base):
        open("/etc/hostname").close()
        raise CheckpointError(f"{folder}: no", hint="yes")

    monkeypatch.setattr(ground, "_open", leaks)
    with pytest.raises(AssertionError, match="opened outside"):
        ground.attempt(b"")
