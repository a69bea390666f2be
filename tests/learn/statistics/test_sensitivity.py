"""Sensitivities and distances, by their definitions."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from taskloom.errors import DataError
from taskloom.learn.collect import collect

from .small import Net, batches, setting


def test_the_definition():
    module, given = Net(), batches()
    found = collect("sensitivity", setting(module, given))
    expected = dict.fromkeys(dict(module.named_parameters()), 0.0)
    for x, y in given:
        for row, label in zip(x, y, strict=True):
            module.zero_grad()
            cross_entropy(module(row[None]), label[None]).backward()
            for name, p in module.named_parameters():
                expected[name] += (
                    0.0 if p.grad is None else float((p.detach() * p.grad).abs().sum()) / 10
                )
    assert {n: float(t) for n, t in found.tensors().items()} == pytest.approx(expected, rel=1e-4)
    layers = json.loads(found.table["layers"])
    assert set(layers) == {"layers.0", "layers.1", "unused"}
    both = expected["layers.0.weight"] + expected["layers.0.bias"]
    assert layers["layers.0"] == pytest.approx(both, rel=1e-4)


def test_tensors_as_layers():
    found = collect("sensitivity", setting(Net()), grouping="tensor")
    assert set(json.loads(found.table["layers"])) == set(dict(Net().named_parameters()))
    assert found.table["grouping"] == "tensor"


def test_distances_between_outputs():
    module, other, given = Net(), Net(1), batches()
    weights = {n: p.detach() for n, p in other.state_dict().items()}
    found = collect("sensitivity", setting(module, given, against={"other": weights, "me": {}}))
    x = torch.cat([inputs for inputs, _ in given])
    expected = float((module(x) - other(x)).norm(dim=1).mean().detach())
    assert json.loads(found.table["gaps"]) == pytest.approx({"other": expected, "me": 0.0}, rel=1e-5)


def test_labels_are_needed():
    with pytest.raises(DataError, match="'sensitivity' needs labels"):
        collect("sensitivity", setting(Net(), [(torch.ones(1, 4), None)]))


def test_a_pool_merges_from_collected_files():
    from taskloom import merge

    base, experts = Net(0), {"a": Net(1), "b": Net(2)}
    weights = {n: {k: v.detach() for k, v in m.state_dict().items()} for n, m in experts.items()}
    given = {
        n: collect("sensitivity", setting(m, against={o: w for o, w in weights.items() if o != n}))
        for n, m in experts.items()
    }
    start = {k: v.detach() for k, v in base.state_dict().items()}
    merged = merge(start, weights, "sens_merging", statistics=given, scale=0.5)
    assert not torch.equal(merged["layers.0.weight"], start["layers.0.weight"])
