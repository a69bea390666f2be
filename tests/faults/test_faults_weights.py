"""Weights that do not fit or are not finite: one message that names them, and no output."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from .conftest import UP, weights


def test_the_merge_without_a_fault(bench):
    status, _, err = bench.merge()
    assert (status, err) == (0, "")
    merged = load_file(bench.out / "model.safetensors")
    base, one, two = map(weights, range(3))
    scale = 0.5
    if bench.how == "flags":
        scale = json.loads((bench.out / "taskloom.json").read_text())["recipe"]["options"]["scale"]
    wanted = base[UP] + scale * ((one[UP] - base[UP]) + (two[UP] - base[UP]))
    torch.testing.assert_close(merged[UP], wanted)
    assert not (bench.root / "out.partial").exists()


# ---- NaN and infinity


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("who", ["base", "one", "two"])
def test_numbers_that_are_not_finite(bench, who, value):
    bad = weights(7)[UP]
    bad[2, 1] = bad[5, 3] = bad[7, 0] = value
    bench.edit(who, **{UP: bad})
    named = str(bench.root / who)
    bench.refused(9, repr(UP), named if who == "base" or bench.how == "yaml" else who, "3", "--nan")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_too(bench, dtype):
    for name in ("base", "one", "two"):
        held = {key: value.to(dtype) for key, value in load_file(bench.file(name)).items()}
        if name == "two":
            held["model.norm.weight"][1] = math.inf
        save_file(held, bench.file(name))
    bench.refused(9, "'model.norm.weight'", "two", "1")


@pytest.mark.parametrize(
    "method", ["average", "ties", "dare_ties", "della", "breadcrumbs", "sce", "model_stock", "slerp"]
)
def test_no_method_lets_one_through(flags, method):
    bad = weights(7)[UP]
    bad[0, 0] = math.nan
    flags.edit("two", **{UP: bad})
    more = ["--seed", 1] if method in ("dare_ties", "della") else []
    flags.refused(9, repr(UP), "two", " 1 NaN", words=flags.words(*more, method=method))


def test_allowed_by_name(bench):
    bad = weights(7)[UP]
    bad[2, 1] = math.nan
    bench.edit("one", **{UP: bad})
    status, _, _ = bench.merge("--nan", "allow")
    assert status == 0
    merged = load_file(bench.out / "model.safetensors")[UP]
    assert merged.isnan().nonzero().tolist() == [[2, 1]], "and only where it was"
    bench.refused(2, "'maybe'", "refuse", words=bench.words("--nan", "maybe"))


def test_an_overflow_of_the_output(flags):
    for name in ("base", "one", "two"):
        flags.edit(name, **{UP: torch.full((8, 4), {"base": 0.0}.get(name, 6e4))})
    words = flags.words("--dtype", "float16", "--set", "scale=1")
    flags.refused(9, repr(UP), "float16", words=words)


# ---- what does not fit


def test_a_shape_that_differs(bench):
    bench.edit("two", **{UP: torch.ones(8, 5)})
    bench.refused(3, repr(UP), "[8, 4]", "[8, 5]", "two")


def test_a_transposed_tensor(bench):
    bench.edit("two", **{UP: torch.ones(4, 8)})
    bench.refused(3, repr(UP), "[8, 4]", "[4, 8]", "two")


def test_a_class_of_dtype_that_differs(bench):
    bench.edit("one", **{UP: torch.ones(8, 4, dtype=torch.int8)})
    bench.refused(3, repr(UP), "float", "int8", "one")


def test_complex_numbers(bench):
    for name in ("base", "one", "two"):
        bench.edit(name, **{UP: torch.ones(8, 4, dtype=torch.complex64)})
    bench.refused(3, repr(UP), "complex64")


@pytest.mark.parametrize("name", [UP, "lm_head.weight"])
def test_a_missing_tensor(bench, name):
    """mergekit puts an average with the embedding in the place of a missing lm_head."""
    bench.edit("two", **{name: None})
    bench.refused(3, repr(name), "two")


def test_a_missing_tensor_of_the_base(bench):
    bench.edit("base", **{UP: None})
    bench.refused(3, repr(UP), "one" if bench.how == "flags" else "base")


def test_an_extra_tensor(bench):
    bench.edit("one", **{"model.adapter.weight": torch.ones(8, 4)})
    bench.refused(3, "'model.adapter.weight'", "one")


def test_an_extra_layer(bench):
    bench.edit("one", **{"model.layers.1.mlp.up_proj.weight": torch.ones(8, 4)})
    bench.refused(3, "model.layers.", "one")


def test_a_tensor_of_another_name(bench):
    bench.edit("one", **{UP: None, "model.layers.0.mlp.up_prj.weight": torch.ones(8, 4)})
    bench.refused(3, repr(UP), "one", "up_prj")


# ---- tied and untied


def test_an_output_layer_that_only_one_has(flags):
    """The base ties it to the embedding; one expert stores another one. (mergekit files untie it.)"""
    bench = flags
    bench.edit("base", **{"lm_head.weight": None})
    bench.edit("two", **{"lm_head.weight": None})
    for name in ("base", "two"):
        config = json.loads((bench.root / name / "config.json").read_text())
        (bench.root / name / "config.json").write_text(
            json.dumps(config | {"tie_word_embeddings": True})
        )
    bench.refused(3, "'lm_head.weight'", "one", "tied")
