"""Grafting: card 22."""

import pytest
import torch

from taskloom import merge
from taskloom.store.statistic import Statistic

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close, weights

ROUNDED = [1, 0, 0, 1, 0, 0]  # the card's mask after one step
OTHER = [0, 0, 0, 1, 1, 0]


def mask(values, name="w"):
    return Statistic.of("graft", {name: torch.tensor(values, dtype=torch.bool)})


def graft(pool, masks, **options):
    given = [mask(m) for m in masks]
    return merge(weights(BASE), [weights(e) for e in pool], "graft", statistics=given, **options)


def test_one_expert_is_grafted_where_its_mask_holds():
    found = graft([THETA1], [ROUNDED])["w"].numpy()
    assert found == close([1.0, -0.25, 0.125, 0.25, 0.25, -0.5])
    assert graft([THETA1], [[1, 0, 0, 0, 0, 0]])["w"].numpy() == close([1.0, *BASE[1:]])
    assert graft([THETA1], [[1] * 6])["w"].numpy() == close(THETA1)
    assert graft([THETA1], [[0] * 6])["w"].numpy() == close(BASE)


@pytest.mark.parametrize(("overlap", "share"), [("mean", 0.5), ("sum", 1.0)])
def test_masks_that_overlap(overlap, share):
    found = graft([THETA1, THETA2], [ROUNDED, OTHER], overlap=overlap, scale=2.0)["w"].numpy()
    change = [TAU1[0], 0, 0, share * (TAU1[3] + TAU2[3]), TAU2[4], 0]
    assert found == close([b + 2 * c for b, c in zip(BASE, change, strict=True)])


def test_what_no_mask_speaks_of_stays_the_bases():
    base = {"w": torch.zeros(2), "embedding": torch.tensor([3.0])}
    expert = {"w": torch.ones(2), "embedding": torch.tensor([9.0])}
    found = merge(base, [expert], "graft", statistics=[mask([1, 0])])
    assert found["w"].tolist() == [1.0, 0.0]
    assert found["embedding"].tolist() == [3.0]
