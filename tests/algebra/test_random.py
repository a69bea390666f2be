"""Numbers keyed by what they are for."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.algebra.random import bernoulli, uniform_bits


def first_block(seed: int, tensor: str, expert: str) -> list[int]:
    """The eight 32-bit numbers of the first Philox4x64-10 counter, from Salmon et al. 2011."""
    mask, w = (1 << 64) - 1, (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    k = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    c = [1, 0, 0, 0]  # numpy counts up before it draws
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & mask, (p0 >> 64) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + w[0]) & mask, (k[1] + w[1]) & mask]
    return [part for word in c for part in (word & 0xFFFFFFFF, word >> 32)]


@pytest.mark.parametrize("key", [(0, "w", "a"), (7, "encoder.layer.0", "expert-1")])
def test_is_philox(key):
    assert uniform_bits(*key, 0, 8).tolist() == first_block(*key)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_slice_may_start_anywhere(start, count):
    whole = uniform_bits(1, "w", "a", 0, 600)
    assert torch.equal(uniform_bits(1, "w", "a", start, count), whole[start : start + count])


def test_far_into_a_large_tensor():
    start = 10**12 + 3
    a, b = uniform_bits(0, "w", "a", start, 20), uniform_bits(0, "w", "a", start + 5, 15)
    assert torch.equal(a[5:], b)


def test_uniform():
    bits = uniform_bits(0, "w", "a", 0, 100_000).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**32
    counts = np.histogram(bits, bins=64, range=(0, 2**32))[0]
    chi2 = ((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum()
    assert chi2 < 63 + 5 * np.sqrt(2 * 63)


@pytest.mark.parametrize(("p", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_certainties(p, rate):
    assert bernoulli(p, 0, "w", "a", 0, 1000).double().mean() == rate


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_drops_a_superset(p, q):
    low, high = (bernoulli(x, 0, "w", "a", 0, 200) for x in sorted((p, q)))
    assert bool((low <= high).all())
