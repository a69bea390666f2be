"""compete against the rule in numpy, row by row, sorted in full."""

import numpy as np
import pytest
import torch

from taskloom.algebra.compete import compete, compete_scores

from .stacks import cut_up, make, measured

TAU1 = [0.5, -0.375, 0.0625, 0.25, -0.125, 0.0]
TAU2 = [0.25, 0.4375, -0.1875, 0.25, 0.375, -0.0625]


def pcb(taus, ratio, clamp=1e-4, weights=None, vision=False):
    """PCB-Merging with full sorts in float64."""
    count, size = taus.shape
    weights = np.ones(count) if weights is None else np.array(weights)
    magnitudes = np.sort(abs(taus), axis=1)
    low = magnitudes[:, [int(size * clamp)]]
    high = magnitudes[:, [int(size * (1 - clamp) - 1)]]
    clamped = np.sign(taus) * np.clip(abs(taus), low, high)
    unit = (abs(clamped) - low) / (high - low)
    rivals = (np.sign(taus) * unit).sum(0) if vision else taus.sum(0)
    scores = (np.exp(count * unit**2) * np.tanh(taus * rivals)).astype(np.float32).astype(float)
    floor = np.sort(scores, axis=1)[:, [int(size * (1 - ratio))]]
    top = scores.max(1, keepdims=True)
    scaled = np.clip(scores - floor, 0, None) / (top - floor)
    return (weights[:, None] * scaled * clamped).sum(0) / np.maximum(scaled.sum(0), 1e-12), scaled


def run(step, stacks):
    statistic = measured(step, stacks)
    return torch.cat([step.apply(stack, statistic).values[0].reshape(-1) for stack in stacks]).numpy()


def test_card_13():
    stack = make([TAU1, TAU2])
    step = compete(0.5)
    limits = measured(step, [stack])
    assert limits.high.tolist() == [0.375, 0.375]
    assert limits.low.tolist() == [0.0, 0.0625]
    scores = compete_scores(stack.values, limits)
    wanted = [
        [2.647923, -0.173149, -0.008259, 0.302479, -0.039014, 0.0],
        [0.380755, 0.201994, 0.032271, 0.255475, 0.690702, 0.003906],
    ]
    assert scores.numpy() == pytest.approx(np.array(wanted), abs=1e-5)
    found = step.apply(stack, limits).values[0].tolist()
    assert found == pytest.approx([0.347061, 0.0, 0.0, 0.25, 0.375, 0.0], abs=1e-5)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("vision", [False, True])
def test_the_rule_restated(ratio, vision):
    taus = np.random.default_rng(1).normal(size=(3, 300)).astype(np.float32).astype(np.float64)
    cross = "vision" if vision else "released"
    step = compete(ratio, 0.02, weights=[1.0, 2.0, 0.5], cross=cross)
    found = run(step, [make(torch.from_numpy(taus))])
    wanted, scaled = pcb(taus, ratio, 0.02, [1.0, 2.0, 0.5], vision)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
    survivors = 300 - int(300 * (1 - ratio)) - 1
    assert (scaled > 0).sum(1).tolist() == [survivors] * 3


def test_a_floor_below_zero():
    """At a ratio of 0.9 the score at the threshold is negative."""
    taus = np.random.default_rng(2).normal(size=(2, 100)).astype(np.float32)
    limits = measured(compete(0.9), [make(torch.from_numpy(taus))])
    assert (limits.floor < 0).all()
    assert (limits.top > 0).all()


def test_slices_order_and_threads_do_not_matter():
    values = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(3))
    stack, step = make(values), compete(0.3, 0.05)
    whole = measured(step, [stack])
    for pieces in (cut_up(stack, 3), list(reversed(cut_up(stack, 1)))):
        assert str(measured(step, pieces)) == str(whole)
    measure, previous = step.measure, None
    for round_ in range(measure.rounds):
        started = measure.start(round_, previous)
        threads = [started] * 3  # one object for all, and the last sees nothing
        for number, piece in enumerate(cut_up(stack, 1)):
            threads[number % 2] = measure.see(threads[number % 2], piece)
        previous = measure.join(measure.join(threads[0], threads[2]), threads[1])
    assert str(measure.done(previous)) == str(whole)


def test_zeros_and_rows_of_equal_scores_give_nothing():
    assert not run(compete(0.5), [make(torch.zeros(2, 9))]).any()
    assert not run(compete(0.5), [make(torch.ones(2, 9))]).any()


def test_one_entry():
    assert run(compete(1.0), [make([[2.0], [1.0]])]).tolist() == [0.0]
    empty = make(torch.zeros(2, 0), name="empty")
    assert run(compete(1.0), [empty, make([[2.0], [1.0]])]).tolist() == [0.0]


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.1, float("nan")])
def test_ratios_that_cannot_be(ratio):
    with pytest.raises(ValueError, match=r"ratio is a share .* must lie in \(0, 1\]"):
        compete(ratio)


@pytest.mark.parametrize("clamp", [-0.1, 0.5, float("nan")])
def test_clamps_that_cannot_be(clamp):
    with pytest.raises(ValueError, match=r"clamp is a share .* must lie in \[0, 0.5\)"):
        compete(0.1, clamp)
