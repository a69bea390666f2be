"""Iso-CTS: card 25."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import CheckpointError

TAU1 = [[4.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.5]]
TAU2 = [[1.0, 0.0, 0.0, 2.0], [0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 2.0]]
CARD = [
    [3.3292, -0.011157, 0.016799, 0.131707],
    [0.046104, 3.107352, 0.681987, -0.989169],
    [-0.017026, -0.727894, 3.251014, -0.045953],
    [-0.123846, 0.95694, 0.258537, 3.178586],
]


def delta(taus, method="iso_cts", name="w", dtype=torch.float32, **options):
    taus = [torch.as_tensor(np.asarray(tau), dtype=dtype) for tau in taus]
    base = {name: torch.zeros_like(taus[0])}
    return merge(base, [{name: tau} for tau in taus], method, **options)[name].numpy()


def polar(matrix):
    p, _, qt = np.linalg.svd(matrix, full_matrices=False)
    return p @ qt


def restated(taus, fraction):
    """Algorithm 2."""
    count, rank = len(taus), min(taus[0].shape)
    own = round((rank - int(rank * fraction)) / count)
    common = rank - own * count
    u, s, v = np.linalg.svd(np.sum(taus, axis=0), full_matrices=False)
    u, s, v = u[:, :common], s[:common], v[:common]
    lefts, values, rights = [], [], []
    for tau in taus:
        p, d, q = np.linalg.svd(tau - u @ u.T @ tau, full_matrices=False)
        lefts, values, rights = [*lefts, p[:, :own]], [*values, d[:own]], [*rights, q[:own]]
    values = np.concatenate([*values, s])
    left, right = np.concatenate([*lefts, u], axis=1), np.concatenate([*rights, v])
    return values.mean() * polar(left) @ polar(right)


def random(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def test_card_25():
    found = delta([TAU1, TAU2], common=0.5)
    np.testing.assert_allclose(found, CARD, atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), 3.331865, atol=1e-5)


def test_card_25_without_directions_of_their_own_it_is_iso_c():
    np.testing.assert_allclose(delta([TAU1, TAU2], common=0.8), delta([TAU1, TAU2], "iso_c"), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (10, 10), (300, 8)])
@pytest.mark.parametrize(("count", "fraction"), [(2, 0.8), (2, 0.3), (3, 0.5), (3, 1.0), (1, 0.5)])
def test_the_rule_restated(count, fraction, shape):
    taus = random(count, *shape)
    wanted = restated(taus, fraction)
    found = delta(taus, dtype=torch.float64, common=fraction)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_allclose(delta(taus, common=fraction), wanted, atol=1e-4)


def test_all_singular_values_are_equal():
    values = np.linalg.svd(delta(random(3, 30, 20), common=0.5).astype(float), compute_uv=False)
    np.testing.assert_allclose(values, values.mean(), rtol=1e-4)


def test_more_tasks_than_directions():
    """round((2 - 0) / 3) = 1 direction each would be three of two; none is left for them then."""
    taus = random(3, 9, 2)
    np.testing.assert_allclose(delta(taus, common=0.0), delta(taus, "iso_c"), atol=1e-5)


def test_equal_experts_are_refused_by_name_or_share():
    taus = [np.array(TAU1), np.array(TAU1)]
    with pytest.raises(CheckpointError, match=r"'w': the experts 'expert-1' and 'expert-2' have the"):
        delta(taus, common=0.5)
    shared = delta(taus, common=0.5, duplicates="share")
    assert np.isfinite(shared).all()
    # two common directions and one that both share
    assert np.linalg.matrix_rank(shared, tol=1e-4) == 3
    # where no direction is the tasks' own there is nothing to refuse
    np.testing.assert_allclose(delta(taus, common=1.0), delta(taus, "iso_c"), atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), ()])
def test_other_tensors_get_the_mean(shape):
    taus = random(3, *shape)
    np.testing.assert_allclose(delta(taus, scale=0.5), taus.mean(0) / 2, atol=1e-6)


def test_skipped_names_get_the_mean():
    taus = random(2, 6, 5)
    np.testing.assert_allclose(delta(taus, name="text_projection"), taus.mean(0), atol=1e-6)


def test_zero_task_vectors_give_the_base():
    zero = np.zeros((4, 4))
    np.testing.assert_array_equal(delta([zero, zero], common=0.5), zero)


@pytest.mark.parametrize("common", [-0.1, 1.1])
def test_a_share_out_of_range(common):
    with pytest.raises(Exception, match="common"):
        delta([TAU1, TAU2], common=common)
