"""Steps of each expert's own, L1 norms that are kept, and the steps that compare with a number."""

import numpy as np
import pytest
import torch

from taskloom.algebra import Grain, cut, drop, keep
from taskloom.algebra.each import each, keep_l1
from taskloom.algebra.threshold import band, beyond, clip
from taskloom.errors import PlanError

from .stacks import make, run

ROWS = torch.tensor([[5.0, -4.0, 3.0, -2.0, 1.0], [0.5, 0.4, -0.3, 0.2, 0.1]])


def test_each_expert_has_a_density_of_its_own():
    step = each([keep(0.4, "tensor"), keep(0.8, "tensor")])
    found = run(step, ROWS)["w"]
    np.testing.assert_allclose(found, [[5, -4, 0, 0, 0], [0.5, 0.4, -0.3, 0.2, 0]])
    assert step.grain == Grain.TENSOR
    assert step.name == "each(keep(0.4, tensor); keep(0.8, tensor))"


def test_each_draws_what_one_step_for_all_draws():
    """Random numbers are keyed by expert, not by position."""
    stack = make(torch.ones(3, 500))
    one, own = drop(0.5, seed=3), each([drop(0.5, seed=3)] * 3)
    assert torch.equal(one.apply(stack, None).values, own.apply(stack, None).values)
    assert own.name == one.name


def test_each_needs_one_step_per_expert_and_no_measures():
    with pytest.raises(PlanError, match="3 steps were given for 2 experts"):
        run(each([cut(0.1)] * 3), ROWS)
    for steps in ([], [keep(0.5, "model")]):
        with pytest.raises(ValueError, match="no measure"):
            each(steps)


def test_l1_norms_are_kept():
    found = run(keep_l1(band(0.4)), ROWS)["w"]
    np.testing.assert_allclose(found, [[25 / 3, -20 / 3, 0, 0, 0], [5 / 6, 2 / 3, 0, 0, 0]], rtol=1e-6)
    assert run(keep_l1(band(0.0)), ROWS)["w"].tolist() == [[0] * 5] * 2
    tiny = ROWS * 1e-9
    assert np.array_equal(run(keep_l1(band(0.4)), tiny)["w"], run(band(0.4), tiny)["w"])
    with pytest.raises(ValueError, match="no measure"):
        keep_l1(keep(0.5, "model"))


@pytest.mark.parametrize(
    ("density", "remove", "least", "kept"),
    [
        (0.4, 0.0, 0, [5, 4]),
        (0.4, 0.2, 0, [4, 3]),
        (0.6, 0.9, 0, [3, 2, 1]),  # only two are removed, so that three stay
        (0.1, 0.0, 0, []),
        (0.1, 0.0, 1, [5]),
        (1.0, 0.5, 0, [5, 4, 3, 2, 1]),
        (0.0, 0.0, 1, [5]),
    ],
)
def test_band(density, remove, least, kept):
    found = np.abs(run(band(density, remove, least=least), ROWS)["w"][0])
    assert found[found > 0].tolist() == kept


@pytest.mark.parametrize(("density", "remove"), [(-0.1, 0), (1.1, 0), (0.5, -1), (0.5, 2)])
def test_band_out_of_range(density, remove):
    with pytest.raises(ValueError, match="shares in"):
        band(density, remove)


def test_band_of_nothing():
    assert run(band(0.5, least=1), torch.zeros(2, 0, 3))["w"].shape == (2, 0, 3)


def test_clip_and_beyond():
    assert run(clip(3), ROWS)["w"][0].tolist() == [3, -3, 3, -2, 1]
    assert run(beyond(3), ROWS)["w"][0].tolist() == [5, -4, 0, 0, 0]
