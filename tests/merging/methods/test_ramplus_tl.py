"""RAM+, tensor-local: unique entries are enlarged."""

import numpy as np
import pytest

from ..fixture import close, delta


def test_by_hand():
    """Expert 1: 1 unique, 2 shared, ratio 2 clamped to 0.5; expert 2: nothing unique."""
    taus = [[1.0, 2.0, 2.0, 0.0], [0.0, 4.0, 6.0, 0.0]]
    found = delta("ramplus_tl", taus, r=0.4, alpha=0.5)
    assert found == close([1.2, 3.0, 4.0, 0.0])


@pytest.mark.parametrize(("r", "alpha"), [(0.1, 0.2), (1.0, 5.0), (0.0, 0.2)])
def test_the_rule_restated(r, alpha):
    taus = np.random.default_rng(1).normal(size=(3, 30))
    changed = np.abs(taus) > 0.8
    count = changed.sum(axis=0)
    unique, shared = changed & (count == 1), changed & (count > 1)
    ratio = np.clip(shared.sum(1) / np.maximum(unique.sum(1), 1), 0, alpha)
    enlarged = (taus * unique * (1 + r * ratio)[:, None]).sum(axis=0)
    wanted = enlarged + (taus * shared).sum(axis=0) / np.maximum(count, 1)
    assert delta("ramplus_tl", taus.tolist(), epsilon=0.8, r=r, alpha=alpha) == close(wanted)
