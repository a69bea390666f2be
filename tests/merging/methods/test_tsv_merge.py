"""TSV-Merge: card 24."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import CheckpointError

TAU1 = [[3.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
TAU2 = [[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]]
CARD = [[2.550964, 1.152321], [0.634314, 0.831805], [1.789338, -2.056193]]


def delta(taus, name="w", dtype=torch.float32, **options):
    taus = [torch.as_tensor(np.asarray(tau), dtype=dtype) for tau in taus]
    base = {name: torch.zeros_like(taus[0])}
    return merge(base, [{name: tau} for tau in taus], "tsv_merge", **options)[name].numpy()


def polar(matrix):
    p, _, qt = np.linalg.svd(matrix, full_matrices=False)
    return p @ qt


def restated(taus):
    """Algorithm 1 of the paper."""
    count = len(taus)
    kept = int(min(taus[0].shape) / count)
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    u = np.concatenate([p[0][:, :kept] for p in parts], axis=1)
    s = np.concatenate([p[1][:kept] for p in parts])
    v = np.concatenate([p[2][:kept] for p in parts])
    return polar(u) * s @ polar(v)


def random(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def test_card_24():
    np.testing.assert_allclose(delta([TAU1, TAU2]), CARD, atol=1e-5)
    np.testing.assert_allclose(delta([TAU1, TAU2], scale=0.5), np.array(CARD) / 2, atol=1e-5)


def test_the_transposed_matrices_give_the_transposed_result():
    turned = [np.array(tau).T for tau in (TAU1, TAU2)]
    np.testing.assert_allclose(delta(turned).T, CARD, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (10, 10), (300, 4)])
@pytest.mark.parametrize("count", [2, 3])
def test_the_rule_restated(count, shape):
    taus = random(count, *shape)
    np.testing.assert_allclose(delta(taus, dtype=torch.float64), restated(taus), atol=1e-9)
    np.testing.assert_allclose(delta(taus), restated(taus), atol=2e-5)


def test_it_adds_to_the_base():
    base, taus = random(1, 6, 5, seed=1)[0], random(2, 6, 5)
    pool = [{"w": torch.from_numpy(base + tau)} for tau in taus]
    found = merge({"w": torch.from_numpy(base)}, pool, "tsv_merge", scale=0.7)["w"].numpy()
    np.testing.assert_allclose(found, base + 0.7 * restated(taus), atol=1e-9)


def test_one_expert_comes_back():
    np.testing.assert_allclose(delta([TAU1]), TAU1, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), (), (2, 9), (9, 2)])
def test_other_tensors_get_the_mean(shape):
    """Also matrices with a side shorter than the number of experts, which keep no direction."""
    taus = random(3, *shape)
    np.testing.assert_allclose(delta(taus, scale=0.5), taus.mean(0) / 2, atol=1e-6)


def test_skipped_names_get_the_mean():
    taus = random(2, 6, 5)
    np.testing.assert_allclose(delta(taus, name="text_projection"), taus.mean(0), atol=1e-6)
    found = delta(taus, name="model.embed_tokens.weight", skip=["embed_tokens"])
    np.testing.assert_allclose(found, taus.mean(0), atol=1e-6)
    found = delta(taus, name="text_projection", skip=[])
    np.testing.assert_allclose(found, restated(taus), atol=1e-5)


def wide(tau):
    """The same numbers in a matrix that keeps a direction of each of three tasks."""
    return np.pad(np.array(tau), ((0, 1), (0, 2)))


def test_equal_experts_are_refused_by_name():
    first, second = (torch.from_numpy(wide(tau)) for tau in (TAU1, TAU2))
    base = {"w": torch.zeros(4, 4), "b": torch.zeros(3)}
    x, y = {"w": first, "b": torch.ones(3)}, {"w": second, "b": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"tensor 'w': the experts 'x' and 'z' have the same"):
        merge(base, {"x": x, "y": y, "z": dict(x)}, "tsv_merge")


def test_nearly_equal_and_proportional_experts_are_refused():
    noise = 1e-5 * random(1, 4, 4)[0]
    for other in (wide(TAU1) + noise, -2 * wide(TAU1)):
        with pytest.raises(CheckpointError, match="Leave one of them out, or set duplicates=share"):
            delta([wide(TAU1), other])
    delta([wide(TAU1), wide(TAU1) + 1e4 * noise])


def test_without_the_check_the_official_rule_makes_up_a_direction():
    """The card's figure: sqrt(2) sigma_1 in norm, of which only sigma_1 is the task's."""
    taus = [np.array(TAU1)] * 2
    sigma = np.linalg.svd(taus[0], compute_uv=False)[0]
    assert np.linalg.norm(restated(taus)) == pytest.approx(2**0.5 * sigma, abs=1e-5)
    shared = delta(taus, duplicates="share")
    assert np.linalg.norm(shared) == pytest.approx(sigma, abs=1e-5)
    values = np.linalg.svd(shared, compute_uv=False)
    assert values[1] == pytest.approx(0, abs=1e-5)


def test_sharing_changes_nothing_for_different_experts():
    taus = random(3, 9, 8)
    np.testing.assert_array_equal(delta(taus, duplicates="share"), delta(taus))


def test_an_expert_that_is_the_base_adds_nothing():
    zero = np.zeros((3, 2))
    found = delta([TAU1, zero])
    u, s, v = np.linalg.svd(TAU1, full_matrices=False)
    np.testing.assert_allclose(found, s[0] * np.outer(u[:, 0], v[0]), atol=1e-5)
    np.testing.assert_array_equal(delta([zero, zero]), zero)


def test_directions_beyond_the_rank_take_no_part():
    """LoRA experts of rank 1 and room for three directions each."""
    rng = np.random.default_rng(3)
    lefts, rights = rng.normal(size=(2, 8, 1)), rng.normal(size=(2, 1, 6))
    taus = lefts @ rights
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    u = np.stack([p[0][:, 0] for p in parts], axis=1)
    v = np.stack([p[2][0] for p in parts])
    wanted = polar(u) * [p[1][0] for p in parts] @ polar(v)
    np.testing.assert_allclose(delta(taus), wanted, atol=1e-5)


def test_columns_that_coincide_in_one_factor_are_no_duplicates():
    """Two tasks that change one row only, as token types do: their left vectors are the same."""
    first, second = np.zeros((2, 6)), np.zeros((2, 6))
    first[0], second[0] = random(2, 6)
    found = delta([first, second])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], 0, atol=1e-6)
