"""exclusive and exclusive_blocks: each entry in one expert at most."""

import numpy as np
import pytest
import torch

from taskloom.algebra import Grain, chain, keep
from taskloom.algebra.exclusive import exclusive, exclusive_blocks
from taskloom.merging.slices import cutting, pieces
from taskloom.store.checkpoint import TensorInfo

from .restated import largest
from .stacks import make, run


def in_turn(rows, count):
    """Choose expert by expert with plain loops."""
    free, kept = np.ones(rows.shape[1], bool), []
    for row in rows:
        mark = largest(np.where(free, row, 0), count) & free & (row != 0)
        kept.append(row * mark)
        free &= ~mark
    return np.stack(kept)


def blocked(rows, n, m, trailing):
    parts = []
    for start in range(0, rows.shape[1], m):
        part = rows[:, start : start + m]
        short = part.shape[1] < m
        count = max(1, round(n * part.shape[1] / m)) if short else n
        parts.append(part * 0 if short and trailing == "drop" else in_turn(part, count))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (3, 7), (5, 5), (4, 50)])
@pytest.mark.parametrize("trailing", ["drop", "keep"])
def test_blocks(n, m, trailing):
    rows = np.random.default_rng(m).integers(-4, 5, size=(3, 4, 9)).astype(np.float32)
    found = run(exclusive_blocks(n, m, trailing), torch.from_numpy(rows))["w"]
    wanted = blocked(rows.reshape(3, -1), n, m, trailing)
    assert np.array_equal(found.reshape(3, -1), wanted)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.34, 0.5, 1.0])
def test_unstructured(density):
    rows = np.random.default_rng(0).integers(-4, 5, size=(3, 5, 6)).astype(np.float32)
    found = run(exclusive(density), torch.from_numpy(rows))["w"]
    assert np.array_equal(found.reshape(3, -1), in_turn(rows.reshape(3, -1), int(30 * density)))
    assert ((found != 0).sum(0) <= 1).all()


def test_scalars_and_nothing():
    assert run(exclusive_blocks(1, 2, "keep"), torch.tensor([2.0, 3.0]))["w"].tolist() == [2.0, 0.0]
    assert run(exclusive(1.0), torch.tensor([0.0, 3.0]))["w"].tolist() == [0.0, 3.0]
    assert run(exclusive_blocks(1, 2), torch.zeros(2, 0, 4))["w"].shape == (2, 0, 4)
    assert run(exclusive(0.5), torch.zeros(2, 0))["w"].shape == (2, 0)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, -1)])
def test_blocks_that_cannot_be(n, m):
    with pytest.raises(ValueError, match="1 <= n <= m, not n ="):
        exclusive_blocks(n, m)


@pytest.mark.parametrize("density", [-0.1, 1.5, float("nan")])
def test_densities_that_cannot_be(density):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        exclusive(density)


@pytest.mark.parametrize("elements", [1, 5, 8, 11, 30])
def test_slices_hold_whole_blocks(elements):
    """What is cut up gives what the whole gives."""
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 7)))
    step = exclusive_blocks(2, 5)
    info = TensorInfo((4, 7), "float64")
    how = cutting(chain(step), info, elements)
    found = []
    for piece in pieces(info, how):
        assert piece.start % 5 == 0
        part = rows.reshape(2, -1)[:, piece.start : piece.stop].reshape(2, *piece.shape)
        found.append(step.apply(make(part), None).values.reshape(2, -1))
    assert torch.equal(torch.cat(found, 1), step.apply(make(rows), None).values.reshape(2, -1))


def test_blocks_of_several_steps_meet():
    both = chain(exclusive_blocks(1, 4), exclusive_blocks(1, 6))
    info = TensorInfo((100,), "float32")
    assert both.block == 12
    assert cutting(both, info, 30).elements == 24
    with_rows = chain(exclusive_blocks(1, 4), keep(0.5, "row"))
    assert cutting(with_rows, TensorInfo((20, 5), "float32"), 30).grain == Grain.TENSOR
