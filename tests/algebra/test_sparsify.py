"""keep, cut and drop against their restatements."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra import Grain, Stack, cut, drop, keep

from . import restated
from .stacks import arrays, cut_up, make, measured, run

shares = st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.5, 0.7, 0.99, 1.0])


@given(arrays(4, 6), shares, st.integers(0, 1))
def test_keep_tensor(values, density, extra):
    stack = torch.from_numpy(values.reshape(2, 2, 6))
    found = run(keep(density, "tensor", extra=extra), stack)["w"]
    expected = [restated.keep_tensor(t, density, extra) for t in values.reshape(2, 2, 6)]
    assert np.array_equal(found, np.stack(expected))


@given(arrays(4, 6), shares, st.integers(0, 1))
def test_keep_row(values, density, extra):
    found = run(keep(density, "row", extra=extra), torch.from_numpy(values.reshape(2, 2, 6)))["w"]
    assert np.array_equal(found.reshape(4, 6), restated.keep_rows(values, density, extra))


@given(arrays(2, 21), shares, st.integers(0, 1))
def test_keep_model(values, density, extra):
    cuts = {"a": values[:, :12].reshape(2, 3, 4), "b": values[:, 12:20], "c": values[:, 20]}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in cuts.items()}
    found = run(keep(density, extra=extra), tensors)
    for k in range(2):
        expected = restated.keep_model([v[k] for v in cuts.values()], density, extra)
        for (name, tensor), rule in zip(found.items(), expected, strict=True):
            assert np.array_equal(tensor[k], rule), name


@given(arrays(2, 30), st.permutations(range(5)), st.integers(1, 5))
def test_keep_model_whatever_the_order_and_the_slices(values, order, rows):
    stack = make(torch.from_numpy(values.reshape(2, 5, 6)))
    step = keep(0.3)
    whole = measured(step, [stack])
    pieces = cut_up(stack, rows)
    sliced = measured(step, [pieces[i] for i in order if i < len(pieces)])
    assert np.array_equal(whole, sliced)
    together = torch.cat([step.apply(piece, sliced).values for piece in pieces], 1)
    assert torch.equal(together, step.apply(stack, whole).values)


@pytest.mark.parametrize("scope", ["row", "tensor", "model"])
def test_a_share_of_less_than_one_entry_keeps_nothing(scope):
    assert not run(keep(0.2, scope), torch.tensor([[1.0, 2.0, 3.0]]))["w"].any()


@pytest.mark.parametrize("scope", ["row", "tensor", "model"])
@pytest.mark.parametrize("value", [0.0, 1e-45, 1.0, 3e38])
def test_one_entry(scope, value):
    one = torch.tensor([[value]])
    assert run(keep(1.0, scope), one)["w"][0, 0] == np.float32(value)
    assert run(keep(0.5, scope), one)["w"][0, 0] == 0


def test_entries_equal_to_the_models_threshold_stay():
    found = run(keep(0.5), torch.tensor([[1.0, 1.0, 1.0, 0.5]]))["w"]
    assert found.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_entries_equal_to_a_tensors_threshold_go_by_index():
    found = run(keep(0.5, "tensor"), torch.tensor([[1.0, 1.0, 1.0, 0.5]]))["w"]
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_density_times_n_is_truncated():
    ten = torch.arange(1.0, 11.0)[None]
    assert (run(keep(0.29, "tensor"), ten)["w"] != 0).sum() == 2


@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("step", [keep, cut])
def test_scalars_are_left_alone(step, scope):
    scalars = torch.tensor([0.5, -2.0])
    assert np.array_equal(run(step(0.5, scope), scalars)["w"], scalars.numpy())


def test_scalars_are_ranked_with_the_model():
    found = run(keep(0.5), {"s": torch.tensor([0.1]), "w": torch.tensor([[3.0]])})
    assert found["s"].tolist() == [0.0]
    assert found["w"].tolist() == [[3.0]]


@pytest.mark.parametrize("step", [keep(0.5), keep(0.5, "tensor"), keep(0.5, "row"), cut(0.5), drop(0.5)])
@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 4), (2, 4, 0)])
def test_empty_tensors(step, shape):
    assert run(step, torch.zeros(shape))["w"].shape == shape


@given(arrays(4, 6), shares)
def test_cut_row(values, share):
    found = run(cut(share), torch.from_numpy(values.reshape(2, 2, 6)))["w"]
    assert np.array_equal(found.reshape(4, 6), restated.cut_rows(values, share))


@given(arrays(2, 6), shares)
def test_cut_tensor(values, share):
    found = run(cut(share, "tensor"), torch.from_numpy(values.reshape(2, 2, 3)))["w"]
    assert np.array_equal(found.reshape(2, 6), restated.cut_rows(values, share))


@given(arrays(1, 12), shares)
def test_keep_and_cut_part_a_row(values, share):
    stack = torch.from_numpy(values)
    kept, rest = (run(step(share, "tensor"), stack)["w"] for step in (keep, cut))
    assert np.array_equal(kept + rest, values)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("step", [keep, cut, drop])
def test_shares_outside_0_1_are_refused(step, share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        step(share)


def test_grain_and_reads():
    assert [s.grain for s in (keep(0.1), keep(0.1, "row"), keep(0.1, "tensor"), cut(0.1))] == [
        Grain.ELEMENT,
        Grain.ROW,
        Grain.TENSOR,
        Grain.ROW,
    ]
    assert keep(0.1).measure.rounds == 2
    assert keep(0.1, "row").measure is None


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_drop_rate(p):
    found = run(drop(p, rescale=False), torch.ones(2, 40_000))["w"]
    deviation = 4.5 * np.sqrt(p * (1 - p) / 80_000)
    assert abs((found == 0).mean() - p) <= deviation


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drop_keeps_the_mean(p):
    found = run(drop(p), torch.ones(1, 200_000))["w"]
    assert abs(found.mean() - 1) < 4.5 * np.sqrt(p / (1 - p) / 200_000)
    survivors = found[found != 0]
    assert np.allclose(survivors, 1 / (1 - p))


def test_drop_everything_rescales_nothing():
    assert not run(drop(1.0), torch.ones(2, 9))["w"].any()


def test_drop_nothing_changes_nothing():
    values = torch.randn(2, 9)
    assert np.array_equal(run(drop(0.0), values)["w"], values.numpy())


@given(st.integers(1, 7), st.permutations(range(7)))
def test_drop_is_the_same_in_any_slices_and_order(rows, order):
    stack = make(torch.arange(1.0, 43.0).reshape(2, 7, 3))
    step = drop(0.5, seed=3)
    pieces = cut_up(stack, rows)
    done = {i: step.apply(pieces[i], None).values for i in order if i < len(pieces)}
    assert torch.equal(torch.cat([done[i] for i in sorted(done)], 1), step.apply(stack, None).values)


def masks(name="w", experts=("a", "b"), seed=0, n=20_000):
    stack = Stack(name, torch.ones(len(experts), n), experts, 0, n)
    return drop(0.5, seed=seed).apply(stack, None).values.numpy() != 0


def agreement(x: np.ndarray, y: np.ndarray) -> float:
    return float((x == y).mean())


def test_drop_is_repeatable():
    assert np.array_equal(masks(), masks())


@pytest.mark.parametrize("other", [masks(name="v"), masks(seed=1), masks(experts=("c", "d"))])
def test_tensors_seeds_and_experts_are_independent(other):
    assert abs(agreement(masks(), other) - 0.5) < 0.015


def test_experts_of_one_stack_are_independent():
    first, second = masks()
    assert abs(agreement(first, second) - 0.5) < 0.02


def test_drop_follows_the_experts_name_and_not_its_place():
    assert np.array_equal(masks(experts=("a", "b")), masks(experts=("b", "a"))[::-1])


@pytest.mark.parametrize("step", [keep(0.5, "tensor"), keep(0.5, "row"), keep(0.5), cut(0.5), drop(0.5)])
def test_gradient_is_the_mask(step):
    values = torch.tensor([[1.0, -2.0, 3.0, 0.5]], requires_grad=True)
    stack = make(values)
    statistic = measured(step, [stack]) if step.measure else None
    out = step.apply(stack, statistic).values
    out.sum().backward()
    assert torch.equal(values.grad * values.detach(), out.detach())


def test_names_say_what_is_done():
    assert keep(0.2).name == "keep(0.2, model)"
    assert cut(0.1, "tensor").name == "cut(0.1, tensor)"
    assert drop(0.9, seed=7).name == "drop(0.9, seed 7)"
    assert drop(0.9, rescale=False).name == "drop(0.9, no rescale, seed 0)"
