"""Rows and digests of tensors that are made range by range."""

import pytest
import torch

from taskloom.merging.by_range import digest_of, read_rows
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.memory import MemoryCheckpoint

CUBE = torch.arange(24.0).reshape(4, 3, 2)


def ranged(tensor):
    return lambda name, start, stop: tensor.reshape(-1)[start:stop]


@pytest.mark.parametrize(
    "rows", [None, slice(0, 4), slice(1, 3), slice(-1, None), slice(3, 1), slice(9, 12)]
)
def test_rows_are_those_of_the_whole(rows):
    found = read_rows("w", TensorInfo((4, 3, 2), "float32"), rows, ranged(CUBE))
    assert torch.equal(found, CUBE if rows is None else CUBE[rows])


def test_no_rows_and_no_axes():
    empty = torch.zeros(0, 4)
    assert read_rows("w", TensorInfo((0, 4), "float32"), slice(0, 0), ranged(empty)).shape == (0, 4)
    scalar = torch.tensor(2.5)
    assert read_rows("w", TensorInfo((), "float32"), None, ranged(scalar)) == 2.5
    with pytest.raises(ValueError, match="scalar"):
        read_rows("w", TensorInfo((), "float32"), slice(0, 1), ranged(scalar))


def test_the_digest_is_that_of_the_same_weights_in_memory():
    weights = MemoryCheckpoint({"a": CUBE, "b": torch.arange(3)})
    other = MemoryCheckpoint({"a": CUBE + 1, "b": torch.arange(3)})
    assert digest_of(weights) == weights.digest() != digest_of(other)
