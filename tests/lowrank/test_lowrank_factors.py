"""Truncation is the best there is (Eckart-Young); compression never needs the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import PlanError
from taskloom.merging.factors import Target, compress, product_norm, residual, truncate


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def optimum(matrix, rank):
    s = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum()))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_no_matrix_of_that_rank_is_closer(rows, columns, rank, seed):
    matrix = normal(rows, columns, seed=seed, dtype=torch.float64)
    found = truncate(matrix, Target(rank), dtype=torch.float64)
    rank = min(rank, rows, columns)
    assert found.rank == rank
    assert found.left.shape == (rows, rank)
    assert found.right.shape == (rank, columns)
    assert found.method == "exact"
    best = optimum(matrix, rank)
    assert found.residual == pytest.approx(best, abs=1e-10)
    assert float((matrix - found.left @ found.right).norm()) == pytest.approx(best, abs=1e-10)
    assert found.norm == pytest.approx(float(matrix.norm()))


@given(st.floats(0.05, 1.0), st.integers(0, 99))
def test_energy_takes_the_fewest_directions_that_hold_it(energy, seed):
    matrix = normal(8, 6, seed=seed, dtype=torch.float64)
    found = truncate(matrix, Target(energy=energy), dtype=torch.float64)
    squares = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
    share = squares.cumsum() / squares.sum()
    assert share[found.rank - 1] >= energy - 1e-9
    assert found.rank == 1 or share[found.rank - 2] < energy
    assert 1 - (found.residual / found.norm) ** 2 == pytest.approx(share[found.rank - 1], abs=1e-9)


def test_max_rank_limits_what_energy_asks_for():
    matrix = normal(20, 20)
    assert truncate(matrix, Target(3, 0.999)).rank == 3
    assert truncate(matrix, Target(18, 0.2)).rank < 18


def test_both_factors_have_half_of_the_singular_values():
    found = truncate(normal(12, 7, dtype=torch.float64), Target(4), dtype=torch.float64)
    for gram in (found.left.T @ found.left, found.right @ found.right.T):
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.left.norm(), found.right.norm())


def test_the_residual_is_that_of_the_factors_as_stored():
    matrix = normal(30, 20)
    found = truncate(matrix, Target(20), dtype=torch.bfloat16)
    assert found.left.dtype == torch.bfloat16
    rest = matrix - found.left.float() @ found.right.float()
    assert found.residual == pytest.approx(float(rest.norm()), rel=1e-5)
    assert found.residual > 1e-4 * found.norm  # bfloat16 rounds, and the report says so


# --- the randomised method -----------------------------------------------------------------------


def decaying(rows, columns, rate, seed=0):
    q, _ = torch.linalg.qr(normal(rows, columns, seed=seed))
    p, _ = torch.linalg.qr(normal(columns, columns, seed=seed + 1))
    s = rate ** torch.arange(columns, dtype=torch.float32)
    return q @ (s[:, None] * p.T)


@pytest.mark.parametrize("shape", [(150, 120), (120, 150)])
def test_randomised_comes_near_the_optimum_and_measures_its_error(shape):
    matrix = decaying(150, 120, 0.9)
    matrix = matrix if shape == (150, 120) else matrix.T.contiguous()
    found = truncate(matrix, Target(8), name="w", exact_up_to=64)
    assert found.method == "randomised"
    best = optimum(matrix, 8)
    assert best * (1 - 1e-4) <= found.residual <= best * 1.001
    assert found.residual == pytest.approx(float((matrix - found.left @ found.right).norm()), rel=1e-4)


def test_randomised_on_a_flat_spectrum_is_honest():
    matrix = normal(140, 130)
    found = truncate(matrix, Target(10), exact_up_to=64)
    best = optimum(matrix, 10)
    assert best <= found.residual * (1 + 1e-5)
    assert found.residual <= 1.02 * best


def test_randomised_energy_grows_its_sketch():
    matrix = decaying(400, 300, 0.98)
    found = truncate(matrix, Target(energy=0.97), exact_up_to=64)
    exact = truncate(matrix, Target(energy=0.97), exact_up_to=1000)
    assert found.method == "randomised"
    assert found.rank > 64
    assert abs(found.rank - exact.rank) <= 1
    assert 1 - (found.residual / found.norm) ** 2 >= 0.97 - 1e-4


def test_randomised_gives_way_where_it_would_not_be_cheaper():
    matrix = normal(100, 90)
    assert truncate(matrix, Target(60), exact_up_to=32).method == "exact"
    assert truncate(matrix, Target(energy=0.999), exact_up_to=32).method == "exact"
    assert truncate(matrix, Target(5, 0.999), exact_up_to=32).method == "randomised"


def test_randomised_is_seeded_by_name():
    matrix = normal(100, 90)
    one, two = (truncate(matrix, Target(4), name="w", exact_up_to=32) for _ in range(2))
    assert torch.equal(one.left, two.left)
    assert torch.equal(one.right, two.right)
    other = truncate(matrix, Target(4), name="v", exact_up_to=32)
    assert not torch.equal(one.left, other.left)
    assert not torch.equal(one.left, truncate(matrix, Target(4), name="w", seed=1, exact_up_to=32).left)


# --- factors -------------------------------------------------------------------------------------


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_compression_is_the_truncation_of_the_product(rows, columns, width, rank, seed):
    left = normal(rows, width, seed=seed, dtype=torch.float64)
    right = normal(width, columns, seed=seed + 1, dtype=torch.float64)
    found = compress(left, right, Target(rank))
    matrix = left @ right
    best = optimum(matrix, min(rank, rows, columns, width))
    assert found.rank == min(rank, rows, columns, width)
    assert float((matrix - found.left @ found.right).norm()) == pytest.approx(best, abs=1e-9)
    assert found.residual == pytest.approx(best, abs=1e-9)
    assert found.norm == pytest.approx(float(matrix.norm()))


def test_compression_without_a_target_only_drops_what_cannot_matter():
    left, right = normal(5, 30), normal(30, 7, seed=1)
    found = compress(left, right, None)
    assert found.rank == 5
    assert found.residual == 0
    torch.testing.assert_close(found.left @ found.right, left @ right, atol=1e-4, rtol=1e-5)


def test_what_cancels_is_zero_of_rank_one():
    left, right = normal(6, 2), normal(2, 8, seed=1)
    found = compress(torch.cat([left, -left], 1), torch.cat([right, right]), Target(energy=0.9))
    assert found.norm < 1e-12
    assert float((found.left @ found.right).abs().max()) < 1e-10
    assert compress(left * 0, right, Target(energy=0.5)).rank == 1


def test_norm_and_residual_without_and_with_the_matrix():
    left, right = normal(600, 3), normal(3, 11, seed=1)
    assert product_norm(left, right) == pytest.approx(float((left @ right).norm()), rel=1e-5)
    matrix = normal(600, 11, seed=2)
    assert residual(matrix, left, right) == pytest.approx(
        float((matrix - left @ right).norm()), rel=1e-5
    )


@pytest.mark.parametrize(
    ("rank", "energy", "message"),
    [
        (None, None, "neither"),
        (0, None, "at least 1"),
        (None, 0.0, r"\(0, 1\]"),
        (None, 1.5, "1.5"),
        (4, float("nan"), "nan"),
    ],
)
def test_impossible_targets(rank, energy, message):
    with pytest.raises(PlanError, match=message):
        Target(rank, energy)
