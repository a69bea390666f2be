"""Merging with coefficients of their own for experts, layers, tensors and parts of tensors."""

import numpy as np
import pytest
import torch

import taskloom
from taskloom.algebra.grouped import part_of
from taskloom.errors import CheckpointError, PlanError
from taskloom.learn.coefficients.layout import Layout
from taskloom.merging.battery import CHECKS, check_rule
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.writer import write_safetensors

from ..fixture import TAU1, TAU2, close, delta

RULES = [rule for rule in CHECKS if rule not in ("equal_experts", "permutation", "one_expert")]
RANDOM = np.random.default_rng(0)
BASE = {
    name: torch.from_numpy(RANDOM.normal(size=shape))
    for name, shape in {"emb": (5, 3), "h.0.w": (4, 3), "h.0.b": (4,), "h.1.w": (4, 3)}.items()
}
EXPERTS = {
    expert: {name: t + torch.from_numpy(RANDOM.normal(size=t.shape)) for name, t in BASE.items()}
    for expert in ("x", "y")
}


def expected(factor):
    """Base plus task vectors times ``factor(expert, tensor)``."""
    return {
        name: sum((EXPERTS[e][name] - t) * factor(e, name) for e in EXPERTS) + t
        for name, t in BASE.items()
    }


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12)


def test_one_number_is_task_arithmetic():
    assert delta("coefficients", [TAU1, TAU2], values=0.3) == close(
        delta("task_arithmetic", [TAU1, TAU2], scale=0.3)
    )


def test_a_number_for_every_expert_is_weighted_task_arithmetic_and_linear():
    merged = taskloom.merge(BASE, EXPERTS, "coefficients", values={"x": 0.5, "y": -2.0})
    same(merged, expected(lambda expert, _: {"x": 0.5, "y": -2.0}[expert]))


def test_layers_have_numbers_of_their_own():
    values = {"x": {"emb": 0.1, "h.0": 0.2, "h.1": 0.3}, "y": 1.0}
    merged = taskloom.merge(BASE, EXPERTS, "coefficients", values=values, per="layer")
    layer = {"emb": "emb", "h.0.w": "h.0", "h.0.b": "h.0", "h.1.w": "h.1"}
    same(merged, expected(lambda e, n: values["x"][layer[n]] if e == "x" else 1.0))


def test_tensors_have_numbers_of_their_own():
    values = {e: {name: RANDOM.normal() for name in BASE} for e in EXPERTS}
    merged = taskloom.merge(BASE, EXPERTS, "coefficients", values=values, per="tensor")
    same(merged, expected(lambda e, n: values[e][n]))


def test_parts_of_tensors_have_numbers_of_their_own():
    values = {e: {name: RANDOM.normal(size=3).tolist() for name in BASE} for e in EXPERTS}
    options = {"values": values, "per": "block", "parts": 3, "parts_seed": 7}
    merged = taskloom.merge(BASE, EXPERTS, "coefficients", **options)

    def factor(e, name):
        place = part_of(name, 0, BASE[name].numel(), 3, 7)
        return torch.tensor(values[e][name], dtype=torch.float64)[place].reshape(BASE[name].shape)

    same(merged, expected(factor))


def test_trimmed_vectors_are_those_of_ties_before_they_are_averaged():
    """Equal numbers of experts that agree everywhere: TIES is their mean over those that kept."""
    merged = taskloom.merge(BASE, EXPERTS, "coefficients", values=1.0, trim=0.4)
    flat = {e: torch.cat([(EXPERTS[e][n] - BASE[n]).flatten() for n in BASE]) for e in EXPERTS}
    count = int(0.4 * len(flat["x"])) + 1  # released code keeps one more
    kept = {e: v * (v.abs() >= v.abs().sort(descending=True).values[count - 1]) for e, v in flat.items()}
    sign = torch.sign(kept["x"] + kept["y"])
    sign[sign == 0] = torch.sign(sign.sum())
    summed = sum(v * (v * sign > 0) for v in kept.values())
    found = torch.cat([(merged[n] - BASE[n]).flatten() for n in BASE])
    torch.testing.assert_close(found, summed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "options",
    [{"per": "tensor"}, {"per": "block", "parts": 1}, {"trim": 0.5, "per": "layer"}],
    ids=["tensor", "block", "trim"],
)
def test_battery_with_groups(options, rule):
    names = {"any_slices": [f"e{k}" for k in range(9)], "zero_task_vectors": ["e0", "e1", "e2"]}
    values = {name: 0.2 + 0.1 * k for k, name in enumerate(names.get(rule, "xyz"))}
    check_rule(rule, "coefficients", **options, values=values)


def test_a_file_holds_the_same_as_options(tmp_path):
    layout = Layout.of(EXPERTS, MemoryCheckpoint(BASE).tensors, "block", parts=2, parts_seed=3)
    table = torch.from_numpy(RANDOM.normal(size=layout.shape))
    path = layout.save(table, tmp_path / "c.safetensors")
    by_file = taskloom.merge(BASE, EXPERTS, "coefficients", file=str(path))
    same(by_file, taskloom.merge(BASE, EXPERTS, "coefficients", **layout.options(table)))


def test_an_ordinary_recipe_explained_streamed_and_verified(tmp_path):
    folders = {}
    for name, weights in {"base": BASE, **EXPERTS}.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        infos = {n: TensorInfo(tuple(t.shape), t.dtype) for n, t in weights.items()}
        write_safetensors(folders[name] / "model.safetensors", infos, weights.items(), {})
    base = folders.pop("base")
    values = {e: dict.fromkeys(BASE, 0.5) for e in EXPERTS}
    options = {"values": values, "per": "tensor"}
    told = taskloom.explain(base, folders, "coefficients", **options)
    assert told["reads"] == 1
    assert told["recipe"]["composition"] == "weigh_groups(tensor) -> total"
    taskloom.merge_files(base, folders, "coefficients", tmp_path / "out", **options)
    assert len(taskloom.verify(tmp_path / "out", everything=True).recomputed) == len(BASE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": {"x": 1.0}}, "weights lack the experts y"),
        ({"values": {"x": {"emb": 1.0}, "y": 1.0}, "per": "layer"}, "no coefficient for 'h.0'"),
        ({"values": {"x": {"a": 1.0, "b": 2.0}, "y": 1.0}}, "several numbers"),
        ({"values": {"x": [1.0], "y": 1.0}}, "values"),
        ({"values": {"x": {"emb": []}, "y": 1.0}, "per": "tensor"}, "expected numbers, found none"),
        ({"values": {}}, "expected numbers, found none"),
        ({"parts": 2, "per": "tensor"}, "2 parts of a tensor go with per='block'"),
        ({"values": {"x": float("inf"), "y": 1.0}}, "finite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(PlanError, match=message):
        taskloom.merge(BASE, EXPERTS, "coefficients", **options)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    info = {"x": TensorInfo((2, 1), "float64")}
    pairs = [("x", torch.ones(2, 1, dtype=torch.float64))]
    write_safetensors(path, info, pairs, {"format": "pt"})
    with pytest.raises(CheckpointError, match="expected groups, per, parts and parts_seed"):
        taskloom.merge(BASE, EXPERTS, "coefficients", file=str(path))
    header = {"groups": '["emb"]', "per": "tensor", "parts": "1", "parts_seed": "0"}
    write_safetensors(path, info, pairs, header)
    with pytest.raises(CheckpointError, match=r"the expert 'x': expected .1, 1. numbers"):
        taskloom.merge(BASE, EXPERTS, "coefficients", file=str(path))
    write_safetensors(path, info, pairs, {**header, "per": "row"})
    with pytest.raises(CheckpointError, match="no coefficients per 'row'"):
        taskloom.merge(BASE, EXPERTS, "coefficients", file=str(path))
