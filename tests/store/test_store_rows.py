"""Rows in an order of one's own: any order, any runs, and only what is needed is read."""

import numpy as np
import pytest
import torch

from taskloom.store import rows
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.rows import gather, placed

STORED = torch.arange(60.0).reshape(20, 3)


class Asked(MemoryCheckpoint):
    """Notes which rows are read."""

    def __init__(self):
        super().__init__({"w": STORED})
        self.read_rows = []

    def read(self, name, rows=None):
        self.read_rows.append(list(range(*rows.indices(20))))
        return super().read(name, rows)


@pytest.mark.parametrize("gap", [0, 1, 16])
@pytest.mark.parametrize("limit", [1, 2, 1024])
@pytest.mark.parametrize(
    "wanted", [[], [4], [0, 1, 2], [19, 0, 7], [0, 0, 2], [3, 3, 3], [5, 9, 6, 19, 5, 0]]
)
def test_rows_are_those_of_an_index(monkeypatch, wanted, gap, limit):
    monkeypatch.setattr(rows, "GAP", gap)
    monkeypatch.setattr(rows, "ROWS", limit)
    source = Asked()
    found = gather(source, "w", np.array(wanted, np.int64))
    assert torch.equal(found, STORED[wanted])
    assert max(map(len, source.read_rows)) <= limit


def test_neighbours_are_read_together_and_the_rest_is_not_read():
    source = Asked()
    gather(source, "w", np.array([19, 2, 0]))
    assert source.read_rows == [[0, 1, 2], [19]]


def test_places_and_their_default():
    source, asked = Asked(), []

    def default():
        asked.append(True)
        return torch.full((3, 3), -1.0, dtype=torch.float64)

    found = placed(source, "w", np.array([7, -1, 2]), torch.float64, default)
    assert found.tolist() == [STORED[7].tolist(), [-1.0] * 3, STORED[2].tolist()]
    assert found.dtype == torch.float64
    assert asked == [True]
    assert placed(source, "w", np.array([1]), torch.float32, default).tolist() == [STORED[1].tolist()]
    assert asked == [True]
    assert placed(source, "w", np.array([-1] * 3), torch.float64, default).eq(-1).all()


def test_a_default_that_is_a_view_stays_as_it_is():
    own = torch.zeros(2, 3)
    placed(Asked(), "w", np.array([5, -1]), torch.float32, lambda: own)
    assert own.eq(0).all()
