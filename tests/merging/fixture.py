"""Fixture F of the cards: exact in binary, so that expert - base gives the task vector back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskloom import merge

BASE = [0.5, -0.25, 0.125, 0.0, 0.25, -0.5]
TAU1 = [0.5, -0.375, 0.0625, 0.25, -0.125, 0.0]
TAU2 = [0.25, 0.4375, -0.1875, 0.25, 0.375, -0.0625]
THETA1 = [1.0, -0.625, 0.1875, 0.25, 0.125, -0.5]
THETA2 = [0.75, 0.1875, -0.0625, 0.25, 0.625, -0.5625]


def weights(values, shape=(-1,)):
    return {"w": torch.tensor(values).reshape(shape)}


def merged(recipe, *, base=BASE, experts=(THETA1, THETA2), shape=(-1,), **options):
    """Merge flat lists of numbers as one tensor; return a flat array."""
    known = None if base is None else weights(base, shape)
    out = merge(known, [weights(e, shape) for e in experts], recipe, **options)
    return out["w"].reshape(-1).numpy()


def delta(recipe, taus, **options):
    """Merge task vectors on a base of zeros."""
    return merged(recipe, base=[0.0] * len(taus[0]), experts=taus, **options)


def close(expected):
    return pytest.approx(np.array(expected), abs=1e-5)
