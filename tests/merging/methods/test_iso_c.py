"""Iso-C: card 25 (numbers with card 24)."""

import numpy as np
import pytest
import torch

from taskloom import merge

TAU1 = [[3.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
TAU2 = [[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]]
CARD = [[2.904534, 0.698489], [-0.404534, 2.959824], [1.103023, -0.753778]]


def delta(taus, name="w", dtype=torch.float32, **options):
    taus = [torch.as_tensor(np.asarray(tau), dtype=dtype) for tau in taus]
    base = {name: torch.zeros_like(taus[0])}
    return merge(base, [{name: tau} for tau in taus], "iso_c", **options)[name].numpy()


def restated(taus):
    """Section 4.1."""
    u, s, v = np.linalg.svd(np.sum(taus, axis=0), full_matrices=False)
    return s.mean() * u @ v


def random(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def test_card_24_iso_c():
    found = delta([TAU1, TAU2])
    np.testing.assert_allclose(found, CARD, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(4.430942, abs=1e-5)
    np.testing.assert_allclose(delta([TAU1, TAU2], scale=1.5), 1.5 * np.array(CARD), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (10, 10), (300, 4), (5, 1)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_rule_restated(count, shape):
    taus = random(count, *shape)
    np.testing.assert_allclose(delta(taus, dtype=torch.float64), restated(taus), atol=1e-9)
    np.testing.assert_allclose(delta(taus), restated(taus), atol=2e-5)


def test_all_singular_values_are_the_mean():
    taus = random(3, 12, 9)
    values = np.linalg.svd(delta(taus).astype(float), compute_uv=False)
    wanted = np.linalg.svd(taus.sum(0), compute_uv=False).mean()
    np.testing.assert_allclose(values, wanted, rtol=1e-5)


def test_equal_experts_are_no_trouble():
    taus = [random(1, 6, 5)[0]] * 3
    np.testing.assert_allclose(delta(taus), restated(taus), atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), ()])
def test_other_tensors_get_the_mean(shape):
    taus = random(3, *shape)
    np.testing.assert_allclose(delta(taus, scale=0.5), taus.mean(0) / 2, atol=1e-6)


def test_skipped_names_get_the_mean():
    taus = random(2, 6, 5)
    np.testing.assert_allclose(delta(taus, name="text_projection"), taus.mean(0), atol=1e-6)
    found = delta(taus, name="lm_head.weight", skip=["lm_head", "embed"])
    np.testing.assert_allclose(found, taus.mean(0), atol=1e-6)


def test_opposite_experts_and_zero_task_vectors_give_the_base():
    zero = np.zeros((3, 2))
    np.testing.assert_array_equal(delta([zero, zero]), zero)
    np.testing.assert_array_equal(delta([TAU1, -np.array(TAU1)]), zero)


def test_a_sum_of_low_rank_stays_of_low_rank():
    """Its two directions get the mean of two values; the paper's mean would count the zeros too."""
    rng = np.random.default_rng(0)
    taus = rng.normal(size=(2, 20, 1)) @ rng.normal(size=(2, 1, 15))
    u, s, v = np.linalg.svd(taus.sum(0), full_matrices=False)
    np.testing.assert_allclose(delta(taus), s[:2].mean() * u[:, :2] @ v[:2], atol=1e-5)
