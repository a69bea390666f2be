"""Warnings: each is given when it should be, and not otherwise."""

import math

import numpy as np
import pytest
import torch

import taskloom
from taskloom.choose.diff import findings

from .fixture import base, pool, tuned


def kinds(found):
    return [finding.kind for finding in found.findings]


def mix(start, **parts):
    """Return base + sum of coefficient * (expert - base)."""
    experts = {name: tuned(start, seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))}
    mixed = {
        name: (value + sum(c * (experts[e][name] - value) for e, c in parts.items())).to(value.dtype)
        for name, value in start.items()
    }
    return experts, mixed


def test_a_sound_pool_has_none():
    assert taskloom.diff(*pool(4), ranks=False).findings == ()


def test_a_wrong_base_is_told_by_length_and_by_cosine():
    start, experts = pool(2)
    experts["alien"] = base(seed=99)
    found = taskloom.diff(start, experts, ranks=False)
    (finding,) = found.findings
    assert (finding.kind, finding.experts) == ("wrong-base", ("alien",))
    assert "alien does not look tuned from <memory>: its task vector is 1.4" in finding.message


def test_the_length_decides_at_a_half():
    start = {"w": torch.ones(4)}
    near, far = {"w": torch.full((4,), 1.49)}, {"w": torch.full((4,), 1.51)}
    assert kinds(taskloom.diff(start, {"near": near})) == []
    assert kinds(taskloom.diff(start, {"far": far})) == ["wrong-base"]


def test_identical_experts_are_named_once():
    start, experts = pool(2)
    experts |= {"twin": {n: v.clone() for n, v in experts["a"].items()}, "third": experts["a"]}
    found = taskloom.diff(start, experts, ranks=False)
    (finding,) = found.findings
    assert finding.kind == "identical"
    assert finding.experts == ("a", "twin", "third")
    assert finding.message.startswith("a, twin and third are identical")


def test_one_number_makes_two_experts_different():
    start, experts = pool(1)
    other = {n: v.clone() for n, v in experts["a"].items()}
    other["logit_scale"] += 1e-3
    found = taskloom.diff(start, {"a": experts["a"], "b": other}, ranks=False)
    assert "identical" not in kinds(found)


def test_an_expert_equal_to_the_base():
    start, experts = pool(1)
    copies = {n: v.clone() for n, v in start.items()}
    found = taskloom.diff(start, {**experts, "lazy": copies, "idle": start}, ranks=False)
    assert kinds(found) == ["equal-to-base", "equal-to-base"]
    assert found.findings[0].experts == ("lazy",)


@pytest.mark.parametrize(
    "parts",
    [{"a": 0.5, "b": 0.5}, {"a": 1.0, "c": 1.0}, {"a": 0.3, "b": 0.3, "c": 0.3}, {"a": 0.2, "b": 0.7}],
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_merge_of_the_others_is_found_with_its_coefficients(parts, place):
    start = base()
    experts, merged = mix(start, **parts)
    members = list(experts.items())
    members.insert(place, ("m", merged))
    (finding,) = taskloom.diff(start, dict(members), ranks=False).findings
    assert finding.kind == "already-merged"
    assert finding.experts == ("m", *parts)
    told = " + ".join(f"{c:.3g} {e}" for e, c in parts.items())
    assert f"its task vector is {told} (" in finding.message


def test_a_merge_of_our_own_is_found():
    start, experts = pool(3)
    merged = taskloom.merge(start, experts, "task_arithmetic", scale=0.4)
    found = taskloom.diff(start, {**experts, "merged": merged}, ranks=False)
    assert [f.experts[0] for f in found.findings] == ["merged"]


def test_a_scaled_expert_is_a_merge_of_one():
    start = base()
    experts, scaled = mix(start, a=0.5)
    (finding,) = taskloom.diff(start, {"a": experts["a"], "half": scaled}, ranks=False).findings
    assert finding.experts == ("half", "a")


def test_two_merges_are_both_found():
    start = base()
    experts, one = mix(start, a=0.5, b=0.5)
    _, two = mix(start, b=0.5, c=0.5)
    found = taskloom.diff(start, {**experts, "one": one, "two": two}, ranks=False)
    assert sorted(f.experts for f in found.findings) == [("one", "a", "b"), ("two", "b", "c")]


def test_a_subtraction_is_written_with_a_minus():
    start = base()
    experts, mixed = mix(start, a=1.0, b=-0.5)
    left = {"m": mixed, "a": experts["a"], "b": experts["b"]}
    (finding,) = taskloom.diff(start, left, ranks=False).findings
    assert "+ -" not in finding.message


def test_a_merge_rounded_to_bfloat16_is_still_found():
    start = base(dtype=torch.bfloat16)
    experts, merged = mix(start, a=0.5, b=0.5)
    found = taskloom.diff(start, {**experts, "m": merged}, ranks=False)
    assert [f.experts for f in found.findings] == [("m", "a", "b")]


def test_half_a_merge_and_half_its_own_is_none():
    start = base()
    experts, merged = mix(start, a=0.5, b=0.5)
    further = tuned(merged, 9, size=0.002)
    assert taskloom.diff(start, {**experts, "m": further}, ranks=False).findings == ()


def test_coefficients_against_least_squares_on_whole_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 50))
    parts, rest = findings.solve(vectors @ vectors.T, 2, [0, 1, 3])
    expected, *_ = np.linalg.lstsq(vectors[[0, 1, 3]].T, vectors[2], rcond=None)
    left = np.linalg.norm(vectors[2] - expected @ vectors[[0, 1, 3]]) / np.linalg.norm(vectors[2])
    np.testing.assert_allclose(parts, expected, rtol=1e-9)
    assert rest == pytest.approx(left)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_named_and_left_out(bad):
    start, experts = pool(2)
    tensor = "bert.encoder.layer.1.output.dense.weight"
    experts["b"][tensor][2, 3:5] = bad
    found = taskloom.diff(start, experts, slice_elements=20)
    (finding,) = found.findings
    assert (finding.kind, finding.experts) == ("not-finite", ("b",))
    assert f"tensor {tensor!r} of b holds 2 NaN or infinite values" in finding.message
    assert found.whole.tensors == len(start) - 1
    assert all(math.isfinite(norm) for norm in found.whole.relative_norm)
    assert tensor not in {rank.tensor for rank in found.ranks}


def test_nan_in_the_base_is_the_bases():
    start, experts = pool(1)
    start["logit_scale"] = torch.tensor(math.nan)
    (finding,) = taskloom.diff(start, experts).findings
    assert finding.experts == ()
    assert "of the base holds 1 NaN or infinite value and" in finding.message


def test_everything_broken_still_ends():
    found = taskloom.diff({"w": torch.tensor([math.nan])}, {"a": {"w": torch.tensor([1.0])}})
    assert found.regions == ()
    assert found.whole.relative_norm == (None,)


def test_integers_that_differ_are_named():
    start = {"w": torch.ones(2), "ids": torch.arange(6), "mask": torch.ones(2, dtype=torch.bool)}
    same = {"w": torch.ones(2) * 1.1, "ids": torch.arange(6), "mask": start["mask"]}
    other = {**same, "w": torch.ones(2) * 1.2, "ids": torch.arange(6) + 1}
    found = taskloom.diff(start, {"same": same, "other": other}, slice_elements=2)
    finding = next(f for f in found.findings if f.kind == "integers")
    assert finding.experts == ("other",)
    assert "integer tensor 'ids' of other differs" in finding.message


def test_experts_that_differ_in_integers_alone_are_not_identical():
    start = {"w": torch.ones(3), "ids": torch.arange(3)}
    one = {"w": torch.tensor([1.0, 1.1, 1.0]), "ids": torch.arange(3)}
    found = taskloom.diff(start, {"a": one, "b": {**one, "ids": torch.arange(3) + 1}})
    assert "identical" not in kinds(found)
