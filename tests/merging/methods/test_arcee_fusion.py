"""Arcee Fusion, restated with numpy."""

import numpy as np
import torch

from taskloom import merge

from ..fixture import close, merged


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_rule_restated():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(6, 20))
    expert = base + rng.standard_t(2, size=(6, 20)) * 0.1
    p, q = softmax(expert) + 1e-8, softmax(base) + 1e-8
    scores = np.abs(expert - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(scores.ravel())
    low, middle, high = (ordered[int(s * 119)] for s in (0.25, 0.5, 0.75))
    taken = scores >= middle + 1.5 * (high - low)
    assert 0 < taken.sum() < 60
    pool = [{"w": torch.from_numpy(base)}, {"w": torch.from_numpy(expert)}]
    found = merge(None, pool, "arcee_fusion")["w"].numpy()
    np.testing.assert_allclose(found, np.where(taken, expert, base), atol=1e-12)


def test_equal_models_stay():
    assert merged("arcee_fusion", base=None, experts=([1.0, 2.0], [1.0, 2.0])) == close([1.0, 2.0])
