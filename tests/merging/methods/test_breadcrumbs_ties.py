"""Breadcrumbs with the election of TIES: card 9's masks, then votes."""

import numpy as np
import pytest
import torch

from algebra import restated
from taskloom import merge

from ..fixture import close, merged


def test_card_9_masks_then_election():
    """Masked: [0, -.375, 0, 0, -.125, 0] and [.25, 0, 0, .25, 0, 0]: no conflicts are left."""
    found = merged("breadcrumbs_ties", shape=(2, 3), remove=0.34, density=0.5)
    assert found == close([0.75, -0.625, 0.125, 0.25, 0.125, -0.5])


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
def test_the_rule_restated(weights):
    taus = np.random.default_rng(0).normal(size=(3, 24))
    kept = []
    for tau in taus:
        order = np.argsort(-np.abs(tau), kind="stable")
        mask = np.zeros(24)
        mask[order[2 : 2 + 9]] = 1
        kept.append(tau * mask)
    wanted = 0.5 * restated.mean_kept(restated.elect(np.stack(kept)), weights)
    base = {"w": torch.zeros(4, 6, dtype=torch.float64)}
    pool = [{"w": torch.from_numpy(t).reshape(4, 6)} for t in taus]
    options = {"remove": 0.1, "density": 0.4, "scale": 0.5, "scope": "tensor", "weights": weights}
    found = merge(base, pool, "breadcrumbs_ties", **options)["w"].numpy().ravel()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
