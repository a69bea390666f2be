"""Singular vectors through Gram matrices, Procrustes, and what is cut at the numerical rank."""

import numpy as np
import pytest
import torch

from taskloom.algebra import Stack
from taskloom.algebra.directions import flatten, flatten_common, whiten
from taskloom.algebra.spectral import (
    blocks,
    cosines,
    flattened,
    gather,
    inverse_root,
    is_matrix,
    leading,
    numerical_rank,
    one_thread,
    whitened,
)

SHAPES = [(7, 4), (4, 7), (5, 5), (600, 3), (1, 4), (4, 1)]


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_leading_triplets_are_those_of_lapack(shape, dtype):
    matrix = draw(*shape, dtype=dtype)
    found = leading(matrix, 2)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)[: min(2, *shape)]
    np.testing.assert_allclose(found.values.numpy(), values, rtol=1e-12)
    for side in (found.left, found.right):
        np.testing.assert_allclose((side.T @ side).numpy(), np.eye(len(values)), atol=1e-12)
    # the best approximation of that rank (Eckart and Young) leaves the other singular values
    rest = matrix.double() - found.left * found.values @ found.right.T
    others = np.linalg.svd(matrix.double().numpy(), compute_uv=False)[2:]
    assert float(rest.norm()) == pytest.approx(np.linalg.norm(others), abs=1e-10)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_small_singular_values_of_float32_weights_come_out_right(condition):
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(60, 20)))[0] for _ in range(2))
    values = np.geomspace(1, 1 / condition, 20)
    matrix = torch.from_numpy((left * values @ right.T).astype(np.float32))
    exact = np.linalg.svd(matrix.double().numpy(), compute_uv=False)[:20]
    found = leading(matrix, 20)
    np.testing.assert_allclose(found.values.numpy(), exact, rtol=1e-16 * condition**2 * 60 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_beyond_the_numerical_rank_are_dropped(dtype):
    matrix = draw(40, 2, dtype=dtype) @ draw(2, 30, seed=1, dtype=dtype)
    found = leading(matrix, 10)
    assert len(found.values) == 2
    assert len(leading(torch.zeros(4, 3, dtype=dtype), 3).values) == 0
    np.testing.assert_allclose(
        (found.left * found.values @ found.right.T).numpy(), matrix.double().numpy(), atol=1e-5
    )


def test_numerical_rank():
    assert numerical_rank(torch.tensor([1.0, 1e-3, 1e-9]), 10, 1e-7) == 2
    assert numerical_rank(torch.tensor([0.0, 0.0]), 10, 1e-7) == 0
    assert numerical_rank(torch.tensor([]), 10, 1e-7) == 0


def test_gather_puts_triplets_side_by_side():
    first, second = draw(6, 4), draw(6, 4, seed=1)
    found = gather([(first, 1), (second, 2)], (6, 4), 3)
    for part, at in ((leading(first, 1), slice(0, 1)), (leading(second, 2), slice(1, 3))):
        torch.testing.assert_close(found.left[:, at], part.left)
        torch.testing.assert_close(found.values[at], part.values)
        torch.testing.assert_close(found.right[:, at], part.right)
    with pytest.raises(ValueError, match="one matrix or more"):
        gather([], (6, 4))


def test_gather_leaves_no_gap_where_a_rank_is_lower():
    low = draw(6, 1) @ draw(1, 4, seed=1)
    found = gather([(low, 2), (draw(6, 4, seed=2), 2)], (6, 4), 4)
    assert found.left.shape == (6, 3)
    torch.testing.assert_close(found.values[1:], leading(draw(6, 4, seed=2), 2).values)


def polar(matrix):
    """Procrustes with numpy: P Q^T of the thin decomposition P D Q^T."""
    p, _, qt = np.linalg.svd(matrix, full_matrices=False)
    return p @ qt


def test_whitened_is_procrustes():
    u, v, s = draw(9, 3), draw(8, 3, seed=1), torch.tensor([3.0, 2.0, 1.0]).double()
    from taskloom.algebra.spectral import Triplets

    found = whitened(Triplets(u.double(), s, v.double()), s, torch.empty(9, 8))
    wanted = polar(u.double().numpy()) * s.numpy() @ polar(v.double().numpy()).T
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_the_inverse_root_adds_no_direction():
    u = draw(9, 2, dtype=torch.float64)
    doubled = torch.cat([u, u], 1)
    isometry = doubled @ inverse_root(doubled.T @ doubled)
    values = torch.linalg.svdvals(isometry)
    np.testing.assert_allclose(values.numpy(), [1, 1, 0, 0], atol=1e-7)
    np.testing.assert_allclose((isometry[:, :2] * 2**0.5).numpy(), polar(u.numpy()), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_flattened_has_one_singular_value(shape, dtype):
    matrix = draw(*shape, dtype=dtype)
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(
        flattened(matrix).numpy(),
        values.mean() * left @ right,
        atol=2e-6 if dtype.itemsize < 8 else 1e-12,
    )


def test_flattened_keeps_the_rank_and_the_nuclear_norm():
    matrix = draw(40, 2) @ draw(2, 30, seed=1)
    found = np.linalg.svd(flattened(matrix).double().numpy(), compute_uv=False)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found[:2], values[:2].mean(), rtol=1e-5)
    assert found[2:].max() < 1e-4
    assert found.sum() == pytest.approx(values.sum(), rel=1e-4)


def test_cosines():
    rows = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0]], [[0.0] * 2] * 2])
    np.testing.assert_allclose(
        cosines(rows).numpy(), [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]], atol=1e-15
    )
    huge = draw(2, 70_000)
    by_hand = np.corrcoef(huge.numpy().astype(np.float64)) * 0 + np.array(
        [
            [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in huge.double().numpy()]
            for b in huge.double().numpy()
        ]
    )
    np.testing.assert_allclose(cosines(huge * 1e30).numpy(), by_hand, rtol=1e-6)


def test_which_tensors_are_matrices():
    decide = is_matrix(("embed", "head"))
    assert decide("layer.weight", (2, 3))
    assert not decide("embed_tokens.weight", (2, 3))
    assert not decide("layer.weight", (0, 3))
    assert not decide("layer.weight", (2, 3, 4))
    assert not decide("layer.bias", (3,))


def test_blocks_cover_all_rows_once():
    assert [list(range(600))[b] for b in blocks(600)] == [
        list(range(256)),
        list(range(256, 512)),
        list(range(512, 600)),
    ]
    assert list(blocks(0)) == []


def test_one_thread_and_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("step", [whiten(), flatten(), flatten_common(0.5)], ids=lambda s: s.name)
def test_the_workspace_is_said(step):
    assert step.workspace((100, 50), 4) > 4 * 100 * 50
    assert step.workspace((100, 50), 4) == step.workspace((50, 100), 4)


@pytest.mark.parametrize("step", [whiten(), flatten(), flatten_common(0.5)], ids=lambda s: s.name)
def test_no_gradient_comes_through(step):
    values = draw(2, 4, 4).requires_grad_()
    found = step.apply(Stack("w", values, ("a", "b"), 0, 16), None)
    assert not found.values.requires_grad
