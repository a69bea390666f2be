"""Weighing, aggregates, scale and the sphere."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra import Grain, interpolate_sphere, mean, optionally, scale, total, weigh
from taskloom.algebra.combine import resolve_weights, sum_rows
from taskloom.errors import PlanError

from . import restated
from .stacks import arrays, cut_up, make, run

eighths = st.integers(-8, 8).map(lambda i: i / 8)


def one(step, values):
    return run(step, torch.as_tensor(values))["w"]


@given(arrays(4, 5))
def test_total_adds_in_pool_order(values):
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ((values[0] + values[1]) + values[2]) + values[3]
    assert np.array_equal(one(total(), values)[0], expected, equal_nan=True)


@pytest.mark.parametrize("experts", [1, 2, 4, 5, 9, 17, 40])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_sums_do_not_depend_on_slicing(experts, rows):
    values = torch.randn(experts, 13, 1, generator=torch.Generator().manual_seed(experts))
    stack = make(values, experts=[str(k) for k in range(experts)])
    for step in (total(), mean(), mean("kept"), mean(weights=[0.1] * experts)):
        pieces = [step.apply(piece, None).values for piece in cut_up(stack, rows)]
        assert torch.equal(torch.cat(pieces, 1), step.apply(stack, None).values), step.name


def test_sum_rows_leaves_its_input_alone():
    values = torch.ones(3, 2)
    sum_rows(values)
    sum_rows(values[:1]).add_(1)
    assert torch.equal(values, torch.ones(3, 2))


@given(st.lists(st.lists(eighths, min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_mean_kept(rows, data):
    values = np.array(rows, dtype=np.float32)
    assert np.allclose(one(mean("kept"), values)[0], restated.mean_kept(values), atol=1e-6)
    weights = data.draw(st.lists(eighths, min_size=len(rows), max_size=len(rows)))
    found = one(mean("kept", weights), values)[0]
    assert np.allclose(found, restated.mean_kept(values, weights), atol=1e-5)


@given(arrays(3, 4), st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_mean_all(values, weights):
    values = np.clip(values, -1e6, 1e6)
    wide = values.astype(np.float64)
    assert np.allclose(one(mean(), values)[0], wide.mean(0), rtol=1e-5, atol=1e-1)
    expected = np.average(wide, axis=0, weights=weights)
    assert np.allclose(one(mean(weights=weights), values)[0], expected, rtol=1e-5, atol=1)


def test_mean_without_division():
    values = [[1.0, 2.0], [3.0, 4.0]]
    assert one(mean(weights=[2, 0.5], normalize=False), values).tolist() == [[3.5, 6.0]]


def test_nothing_kept_gives_zero():
    assert one(mean("kept"), [[0.0, 0.0], [0.0, 4.0]]).tolist() == [[0.0, 4.0]]


def test_the_mean_of_equal_rows_is_the_row():
    row = torch.randn(9)
    assert np.allclose(one(mean(), row.repeat(5, 1))[0], row)


def test_weights_that_sum_to_zero():
    with pytest.raises(PlanError, match="weights sum to 0"):
        one(mean(weights=[1, -1]), [[1.0], [2.0]])


@given(arrays(2, 3))
def test_weigh(values):
    found = one(weigh([0.5, -2.0]), np.clip(values, -1e6, 1e6))
    assert np.array_equal(found, np.clip(values, -1e6, 1e6) * np.float32([[0.5], [-2.0]]))


def test_weigh_by_name():
    stack = make([[1.0], [10.0]], experts=["qa", "nli"])
    assert weigh({"nli": 2, "qa": 3}).apply(stack, None).values.tolist() == [[3.0], [20.0]]


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 2, 2, 2)])
def test_weigh_any_shape(shape):
    values = torch.ones(shape)
    assert torch.equal(weigh([2.0, 3.0]).apply(make(values), None).values[1], 3 * values[1])


def test_optionally():
    assert optionally(None).steps == ()
    assert [step.name for step in optionally([1.0]).steps] == ["weigh"]


EXPERTS = ("qa", "nli")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"1 weights were given for 2 experts \(qa, nli\)"),
        ([1.0, 2.0, 3.0], "3 weights were given for 2 experts"),
        ({"qa": 1.0}, "weights lack the experts nli"),
        ({"qa": 1.0, "nil": 1.0}, "weights name the expert 'nil': did you mean 'nli'"),
        ({"qa": 1.0, "nli": 1.0, "zzz": 1.0}, "'zzz': The pool holds: qa, nli"),
        ([1.0, math.nan], "weight of the expert 'nli' is not finite"),
        ({"qa": math.inf, "nli": 1.0}, "weight of the expert 'qa' is not finite"),
        (torch.ones(3), "3 weights were given for 2 experts"),
        (torch.ones(2, 1), r"weights have the shape \[2, 1\]"),
        (torch.tensor(1.0), r"weights have the shape \[\]"),
        (torch.tensor([1.0, math.nan]), "weight of the expert 'nli' is not finite"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(PlanError, match=message):
        resolve_weights(weights, EXPERTS, torch.ones(1))


@pytest.mark.parametrize("weights", [[1, 2], (1.0, 2.0), {"nli": 2, "qa": 1}, torch.tensor([1, 2])])
def test_weights_in_every_form(weights):
    found = resolve_weights(weights, EXPERTS, torch.ones(1, dtype=torch.float64))
    assert found.tolist() == [1.0, 2.0]
    assert found.dtype == torch.float64


def test_steps_say_their_weights():
    assert weigh([1.0]).weights == [1.0]
    assert mean(weights=[1.0]).weights == [1.0]
    assert mean().weights is None


@given(arrays(1, 4), st.floats(-2, 2, width=32))
def test_scale(values, factor):
    with np.errstate(over="ignore", under="ignore"):
        expected = values * np.float32(factor)
    assert np.array_equal(one(scale(factor), values), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan), torch.ones(2)])
@pytest.mark.parametrize("step", [scale, interpolate_sphere])
def test_numbers_that_are_not_one_finite_number(step, bad):
    with pytest.raises(ValueError, match="finite number"):
        step(bad)


@given(arrays(2, 6), st.floats(0, 1))
def test_slerp(values, t):
    values = np.where(np.abs(values) < 1e-6, 0, np.clip(values, -1e18, 1e18))
    found = one(interpolate_sphere(t), values.reshape(2, 2, 3))[0]
    expected = restated.slerp(*values.reshape(2, 2, 3), t)
    a, b = values.astype(np.float64)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if lengths and abs(abs(a @ b / lengths) - 0.9995) < 1e-5:
        return  # either branch
    # near |cos| = 1 an angle known to float32 is known to 1e-6 only
    assert np.allclose(found, expected, rtol=1e-3, atol=2e-5 * max(1.0, np.abs(values).max()))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e18, 1e30])
def test_slerp_at_any_scale(size):
    """Squares of 1e30 overflow float32; the angle must not notice."""
    values = torch.tensor([[1.0, 0.0], [1.0, 1.0]]) * size
    found = one(interpolate_sphere(0.25, eps=0.0), values)[0]
    expected = restated.slerp(np.array([1.0, 0.0]), np.array([1.0, 1.0]), 0.25)
    assert np.allclose(found / size, expected, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_ends(t):
    values = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
    assert np.allclose(one(interpolate_sphere(t), values)[0], values[int(t)])


@pytest.mark.parametrize("threshold", [0.9995, 1.0])
@pytest.mark.parametrize("other", [1.0, -1.0, 0.0])
def test_slerp_where_there_is_no_angle(threshold, other):
    a = torch.tensor([3.0, 4.0])
    found = one(interpolate_sphere(0.25, threshold=threshold), torch.stack([a, other * a]))[0]
    assert np.allclose(found, 0.75 * a + 0.25 * other * a)


def test_slerp_keeps_length_where_the_mean_shrinks():
    values = torch.eye(2)
    assert math.isclose(np.linalg.norm(one(interpolate_sphere(0.5), values)), 1.0, rel_tol=1e-6)
    assert math.isclose(np.linalg.norm(one(mean(), values)), math.sqrt(0.5), rel_tol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (2, 0), (2, 0, 4)])
def test_slerp_of_scalars_and_of_nothing(shape):
    assert one(interpolate_sphere(0.5), torch.ones(shape)).shape == (1, *shape[1:])


def test_slerp_needs_whole_tensors():
    assert interpolate_sphere(0.5).grain is Grain.TENSOR


def wide(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("build", [weigh, lambda w: mean(weights=w), lambda w: mean("kept", w)])
def test_gradients_of_weights_and_values(build):
    def out(weights, values):
        return build(weights).apply(make(values), None).values

    assert torch.autograd.gradcheck(out, (wide(3).detach().abs().requires_grad_(), wide(3, 4)))


@pytest.mark.parametrize("build", [scale, interpolate_sphere])
def test_gradients_of_numbers_and_values(build):
    def out(number, values):
        return build(number).apply(make(values), None).values

    number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(out, (number, wide(2, 4)))


def test_gradient_where_nothing_is_kept_is_zero_and_not_nan():
    values = torch.zeros(2, 3, requires_grad=True)
    mean("kept").apply(make(values), None).values.sum().backward()
    assert not values.grad.any()
