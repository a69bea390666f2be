"""SCE: card 11, three variants."""

import numpy as np
import pytest
import torch

from taskloom import merge

from ..fixture import TAU1, TAU2, close, delta, merged

TAUS = [TAU1, TAU2]
SMALL = [[t / 1000 for t in tau] for tau in TAUS]


def test_card_11_released():
    found = delta("sce", TAUS, select_topk=0.5, variant="released")
    assert found == close([0.33, 0.4375, -0.1875, 0.25, 0.375, -0.0625])
    found = delta("sce", TAUS, select_topk=1.0, variant="released")
    assert found == close([0.371528, 0.4375, -0.1875, 0.25, 0.375, -0.0625])


@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_card_11_paper(variant):
    found = delta("sce", TAUS, select_topk=0.5, variant=variant)
    assert found == close([0.0, 0.4375, 0.0, 0.0, 0.375, 0.0])


@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_card_11_coefficients_of_everything(variant):
    a, b = 0.487903, 0.512097
    found = delta("sce", TAUS, select_topk=1.0, variant=variant)
    assert found == close([0.5 * a + 0.25 * b, 0.4375, -0.1875, 0.25, 0.375, -0.0625])


def test_small_changes_get_equal_coefficients_in_mergekit():
    equal = delta("sce", SMALL, select_topk=1.0, variant="mergekit")
    assert equal[0] == pytest.approx(0.375e-3, rel=1e-6)
    share = delta("sce", SMALL, select_topk=1.0)
    assert share[0] == pytest.approx((0.5 * 0.487903 + 0.25 * 0.512097) / 1000, rel=1e-5)


def test_nothing_selected_gives_the_base():
    assert delta("sce", TAUS, select_topk=0.0) == close([0.0] * 6)
    assert delta("sce", [TAU1, TAU1], select_topk=0.5) == close([0.0] * 6)
    assert delta("sce", [TAU1, TAU1], select_topk=1.0) == close(TAU1)


def paper(taus, share):
    """Section 3.3 over flat vectors."""
    variance = taus.var(axis=0)
    count = int(share * np.count_nonzero(variance))
    mask = np.zeros(taus.shape[1])
    mask[np.argsort(-variance, kind="stable")[:count]] = 1
    chosen = taus * (mask if share < 1 else 1)
    energy = (chosen**2).sum(axis=1)
    w = energy / energy.sum()
    sign = np.where(chosen.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(chosen) == sign
    top, bottom = (w[:, None] * agree * chosen).sum(0), (w[:, None] * agree).sum(0)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_the_rule_restated(share):
    taus = np.random.default_rng(0).normal(size=(3, 40))
    base = {"w": torch.zeros(5, 8, dtype=torch.float64)}
    pool = [{"w": torch.from_numpy(t).reshape(5, 8)} for t in taus]
    found = merge(base, pool, "sce", select_topk=share)["w"].numpy().ravel()
    np.testing.assert_allclose(found, paper(taus, share), atol=1e-12)


def test_share_out_of_range():
    with pytest.raises(Exception, match="select_topk"):
        merged("sce", select_topk=1.5)
