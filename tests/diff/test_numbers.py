"""Every number against the rule written out again in numpy, on whole tensors."""

import math

import numpy as np
import pytest
import torch

import taskloom
from taskloom.choose.diff import Diff

from .fixture import SHAPES, pool

#: (row, column) -> which tensors, by hand
REGIONS = {
    ("word_embeddings", "other"): ["bert.embeddings.word_embeddings.weight"],
    ("position_embeddings", "other"): ["bert.embeddings.position_embeddings.weight"],
    ("embeddings.LayerNorm", "other"): ["bert.embeddings.LayerNorm.weight"],
    **{
        (f"layer {i}", column): [f"bert.encoder.layer.{i}.{column}.{leaf}" for leaf in leaves]
        for i in range(3)
        for column, leaves in {
            "attention.self.query": ["weight", "bias"],
            "intermediate.dense": ["weight"],
            "output.dense": ["weight"],
            "output.LayerNorm": ["weight"],
        }.items()
    },
    ("pooler.dense", "other"): ["bert.pooler.dense.weight"],
    ("logit_scale", "other"): ["logit_scale"],
}


def flat(weights, names):
    return np.concatenate([weights[n].to(torch.float64).numpy().ravel() for n in names])


def restated(base, experts, names):
    """Return what a region must say, from whole tensors."""
    start = flat(base, names)
    ends = [flat(e, names) for e in experts]
    taus = [end - start for end in ends]
    norm = np.linalg.norm

    def conflict(x, y):
        both = [(a, b) for a, b in zip(x, y, strict=True) if a != 0 and b != 0]
        return sum(a * b < 0 for a, b in both) / len(both) if both else None

    columns = [[t for t in column if t != 0] for column in zip(*taus, strict=True)]
    shared = [column for column in columns if len(column) > 1]
    clash = [column for column in shared if min(column) < 0 < max(column)]
    ranks = [[rank(e[n] - base[n]) for n in names if base[n].ndim == 2] for e in experts]
    return {
        "tensors": len(names),
        "parameters": len(start),
        "base_norm": norm(start),
        "relative_norm": [norm(t) / norm(start) for t in taus],
        "base_cosine": [start @ e / norm(start) / norm(e) for e in ends],
        "cosines": [[cosine(x, y) for y in taus] for x in taus],
        "sign_conflict": [[conflict(x, y) for y in taus] for x in taus],
        "any_conflict": len(clash) / len(shared) if shared else None,
        "effective_rank": [mean([r[0] for r in line]) for line in ranks],
        "stable_rank": [mean([r[1] for r in line]) for line in ranks],
        "rank_share": [mean([r[2] for r in line]) for line in ranks],
    }


def cosine(x, y):
    length = np.linalg.norm(x) * np.linalg.norm(y)
    return x @ y / length if length else None


def mean(values):
    return sum(values) / len(values) if values else None


def rank(matrix):
    values = np.linalg.svd(matrix.to(torch.float64).numpy(), compute_uv=False)
    if values[0] == 0:
        return 0.0, 0.0, 0.0
    shares = values / values.sum()
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    return math.exp(entropy), sum(values**2) / values[0] ** 2, math.exp(entropy) / len(values)


def same(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_region_says_what_the_rules_say(dtype):
    base, experts = pool(3, dtype)
    exact = (
        {n: v.double() for n, v in base.items()},
        [{n: v.double() for n, v in e.items()} for e in experts.values()],
    )
    found = taskloom.diff(base, experts)
    assert isinstance(found, Diff)
    assert found.experts == ("a", "b", "c")
    assert {(r.row, r.column) for r in found.regions} == set(REGIONS)
    for region in found.regions:
        for name, value in restated(*exact, REGIONS[region.row, region.column]).items():
            same(getattr(region, name), value)
    for name, value in restated(*exact, list(SHAPES)).items():
        same(getattr(found.whole, name), value)


def test_layers_and_module_types_are_sums_over_the_other():
    base, experts = pool(2)
    found = taskloom.diff(base, experts)
    for layer in found.layers:
        names = [n for place, inside in REGIONS.items() if place[0] == layer.row for n in inside]
        assert layer.column == ""
        for key, value in restated(base, list(experts.values()), names).items():
            same(getattr(layer, key), value)
    for module in found.modules:
        names = [n for place, inside in REGIONS.items() if place[1] == module.column for n in inside]
        for key, value in restated(base, list(experts.values()), names).items():
            same(getattr(module, key), value)


def test_regions_come_in_the_order_of_the_model():
    found = taskloom.diff(*pool(1), ranks=False)
    rows = [layer.row for layer in found.layers]
    assert rows[-5:] == ["layer 0", "layer 1", "layer 2", "pooler.dense", "logit_scale"]
    assert set(rows[:3]) == {"word_embeddings", "position_embeddings", "embeddings.LayerNorm"}


def test_golden_numbers_by_hand():
    base = {"layers.0.w.weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]])}
    a = {"layers.0.w.weight": torch.tensor([[4.0, 0.0], [0.0, 5.0]])}  # change [[1, 0], [0, 1]]
    b = {"layers.0.w.weight": torch.tensor([[2.0, 0.0], [2.0, 6.0]])}  # change [[-1, 0], [2, 2]]
    (region,) = taskloom.diff(base, {"a": a, "b": b}).regions
    assert (region.row, region.column, region.base_norm) == ("layer 0", "w", 5.0)
    assert region.relative_norm == pytest.approx((math.sqrt(2) / 5, 3 / 5))
    assert region.cosines[0][1] == pytest.approx(1 / (math.sqrt(2) * 3))
    assert region.sign_conflict[0][1] == region.any_conflict == 0.5
    assert region.effective_rank[0] == pytest.approx(2)
    assert region.stable_rank[0] == pytest.approx(2)


def test_what_is_not_defined_is_none():
    base = {"w": torch.zeros(3), "v": torch.ones(2, 2)}
    found = taskloom.diff(base, {"a": {"w": torch.ones(3), "v": torch.ones(2, 2)}, "b": base})
    regions = {region.row: region for region in found.regions}
    assert regions["w"].relative_norm == (None, None)
    assert regions["w"].base_cosine == (None, None)
    assert regions["v"].relative_norm == (0.0, 0.0)
    assert regions["v"].cosines[0][1] is None
    assert regions["v"].sign_conflict[0][1] is None
    assert regions["v"].any_conflict is None
    assert regions["v"].effective_rank == regions["v"].stable_rank == (0.0, 0.0)
    assert regions["w"].effective_rank == (None, None)


def test_one_expert_has_no_pairs():
    found = taskloom.diff(*pool(1))
    assert found.pairs == ()
    assert found.mean_cosine(found.whole) is None
    assert found.whole.any_conflict is None


def test_without_ranks_there_are_none_and_half_the_bytes():
    base, experts = pool(2)
    with_ranks, without = taskloom.diff(base, experts), taskloom.diff(base, experts, ranks=False)
    assert without.ranks == ()
    assert without.notes == ()
    assert without.whole.effective_rank == (None, None)
    assert without.whole.cosines == with_ranks.whole.cosines
    assert without.bytes_read == 3 * sum(v.numel() * 4 for v in base.values())
    assert with_ranks.bytes_read > without.bytes_read
