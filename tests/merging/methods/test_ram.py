"""Reinforced Agent Merging, restated entry by entry."""

import numpy as np
import pytest

from ..fixture import close, delta

TAUS = [[1.0, 0.0, 2.0, 1e-6], [0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 0.0, 5e-6]]


def test_unique_entries_whole_and_shared_ones_averaged():
    assert delta("ram", TAUS) == close([1.0, 0.0, 3.0, 3.0])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_rule_restated(epsilon):
    taus = np.random.default_rng(0).normal(size=(3, 30))
    changed = np.abs(taus) > epsilon
    count = changed.sum(axis=0)
    wanted = (taus * changed).sum(axis=0) / np.maximum(count, 1)
    assert delta("ram", taus.tolist(), epsilon=epsilon) == close(wanted)
