"""CABS with n:m blocks: card 14."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import BASE, THETA1, THETA2, close, merged

FIRST = np.array([0.5, 0.0, 0.0, 0.25, -0.125, 0.0])
SECOND = np.array([0.0, 0.4375, -0.1875, 0.0, 0.0, -0.0625])


def test_card_14():
    found = merged("cabs", n=1, m=2, scale=1.0, weights=[1.0, 0.8])
    assert found == close([1.0, 0.1, -0.025, 0.25, 0.125, -0.55])
    assert found == close(BASE + FIRST + 0.8 * SECOND)


def test_card_14_the_order_matters():
    found = merged("cabs", n=1, m=2, scale=1.0, experts=(THETA2, THETA1))
    second = np.array([0.0, 0.4375, 0.0, 0.25, 0.375, 0.0])
    assert found == close(BASE + second + np.array([0.5, 0.0, 0.0625, 0.0, 0.0, 0.0]))


def test_card_14_a_short_last_block_is_dropped_or_kept():
    first = merged("cabs", n=1, m=4, scale=1.0, experts=(THETA1,))
    assert first == close(BASE + np.array([0.5, 0, 0, 0, 0, 0]))
    kept = merged("cabs", n=1, m=4, scale=1.0, experts=(THETA1,), trailing="keep")
    assert kept == close(BASE + np.array([0.5, 0, 0, 0, -0.125, 0]))


def test_blocks_run_over_rows():
    flat = merged("cabs", n=2, m=5, shape=(6,))
    assert merged("cabs", n=2, m=5, shape=(2, 3)).tolist() == flat.tolist()


def test_masks_of_all_experts_are_disjoint():
    taus = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    parts = []
    for k in range(4):
        only = [1.0 if j == k else 0.0 for j in range(4)]
        pool = [{"w": t} for t in taus]
        parts.append(merge({"w": torch.zeros(64)}, pool, "cabs", n=4, m=16, weights=only)["w"])
    assert [int((part != 0).sum()) for part in parts] == [16, 16, 16, 16]
    assert int((torch.stack(parts) != 0).sum(0).max()) == 1


def test_defaults_leave_short_tensors_to_the_base():
    assert merged("cabs") == close(BASE)


def test_task_vectors_of_zero_give_the_base():
    assert merged("cabs", n=1, m=2, experts=(BASE, BASE)) == close(BASE)


@pytest.mark.parametrize("options", [{"n": 0}, {"m": 0}, {"n": 5, "m": 4}, {"trailing": "pad"}])
def test_options_that_cannot_be(options):
    with pytest.raises(PlanError, match=f"^cabs: .*{next(iter(options))}"):
        merged("cabs", **options)


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("cabs", base=None)
