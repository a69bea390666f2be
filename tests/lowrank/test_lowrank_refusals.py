"""Adapters that cannot be merged: one line on the command line, and nothing half-written."""

from __future__ import annotations

import math

import pytest
from lowrank_models import adapter, bert
from safetensors.torch import load_file, save_file

from taskloom.cli.main import invoke


def run(capsys, *words):
    status = invoke(["--quiet", *[str(word) for word in words]])
    return status, capsys.readouterr().err


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Adapters of ranks 4 and 3 on a tiny BERT, one with a NaN."""
    folder = tmp_path_factory.mktemp("adapters")
    model = bert()
    model.save_pretrained(folder / "base")
    for name, rank in (("four", 4), ("three", 3), ("sick", 4)):
        adapter(model, folder / name, r=rank, target_modules=["query"])
    path = folder / "sick" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("others", "code", "part"),
    [
        (["three"], 2, "the adapters' ranks differ (four 4, three 3)"),
        (["sick"], 9, "NaN"),
        (["base"], 3, "base"),
    ],
)
def test_adapters_that_do_not_fit_leave_nothing(adapters, tmp_path, capsys, others, code, part):
    words = ["--base", adapters / "base", "--expert", adapters / "four"]
    words += [word for name in others for word in ("--expert", adapters / name)]
    status, said = run(
        capsys, "merge", *words, "--method", "copa_merging", "--as-adapter", "-o", tmp_path / "out"
    )
    assert status == code, said
    assert said.count("\n") == 1, said
    assert part in said, said
    assert not list(tmp_path.iterdir())


def test_a_method_of_adapters_refuses_full_models(adapters, tmp_path, capsys):
    words = ["--base", adapters / "base", "--expert", adapters / "four", "--expert", adapters / "three"]
    status, said = run(capsys, "merge", *words, "--method", "copa_merging", "-o", tmp_path / "out")
    assert (status, said.count("\n")) == (2, 1), said
    assert "has no rule for full tensors" in said
    assert not list(tmp_path.iterdir())
