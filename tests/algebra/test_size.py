"""weigh_by_size against the formula."""

import numpy as np
import pytest
import torch

from taskloom.algebra import Grain
from taskloom.algebra.size import shares, weigh_by_size

from .stacks import cut_up, make, measured, run

RNG = np.random.default_rng(0)
ROWS = {name: RNG.normal(size=(3, *shape)) for name, shape in {"a": (4, 5), "b": (7,)}.items()}


def tensors():
    return {name: torch.from_numpy(rows) for name, rows in ROWS.items()}


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.5])
def test_over_the_model(power):
    norms = np.sqrt(sum((rows.reshape(3, -1) ** 2).sum(1) for rows in ROWS.values()))
    weights = norms**power / (norms**power).sum()
    found = run(weigh_by_size(power), tensors())
    for name, rows in ROWS.items():
        np.testing.assert_allclose(found[name], np.einsum("k,k...->k...", weights, rows), rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_per_tensor(power):
    found = run(weigh_by_size(power, "tensor"), tensors())
    for name, rows in ROWS.items():
        norms = np.linalg.norm(rows.reshape(3, -1), axis=1)
        weights = norms**power / (norms**power).sum()
        np.testing.assert_allclose(found[name], np.einsum("k,k...->k...", weights, rows), rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_per_element(power):
    found = run(weigh_by_size(power, "element"), tensors())
    for name, rows in ROWS.items():
        weights = abs(rows) ** power / (abs(rows) ** power).sum(0)
        np.testing.assert_allclose(found[name], weights * rows, rtol=1e-12)


def test_a_tensor_in_slices_has_the_weights_of_the_whole():
    step = weigh_by_size(1.0, "tensor")
    stack = make(tensors()["a"])
    whole = step.apply(stack, None).values
    acc = None
    for piece in reversed(cut_up(stack, 1)):
        acc = step.slicewise.see(acc, piece)
    pieces = [step.apply(piece, step.slicewise.done(acc)).values for piece in cut_up(stack, 1)]
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert (step.grain, weigh_by_size(1.0).grain) == (Grain.TENSOR, Grain.ELEMENT)


def test_threads_join_what_they_saw():
    step = weigh_by_size()
    one, other = (make(rows, name=name) for name, rows in tensors().items())
    see, join = step.measure.see, step.measure.join
    joined = step.measure.done(join(see(None, one), see(None, other)))
    assert joined.tolist() == measured(step, [other, one]).tolist()
    assert step.measure.done(join(None, see(None, one))).tolist() == measured(step, [one]).tolist()


def test_zeros_weigh_equally():
    for scope in ("model", "tensor", "element"):
        assert not run(weigh_by_size(2.0, scope), torch.zeros(3, 4))["w"].any()
    assert shares(np.array([0.0, 0.0]), 1.0).tolist() == [0.5, 0.5]
    assert shares(np.array([0.0, 4.0]), 1.0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_powers_that_cannot_be(power):
    with pytest.raises(ValueError, match="power must be a finite number that is not negative"):
        weigh_by_size(power)


def test_squares_beyond_float32_do_not_overflow():
    found = run(weigh_by_size(), torch.tensor([[3e30], [4e30]]))["w"]
    np.testing.assert_allclose(found[:, 0], [3e30 * 9 / 25, 4e30 * 16 / 25], rtol=1e-6)
