"""Embedding space maps: the golden numbers of the card, the rule restated, and what it cannot tell."""

import numpy as np
import pytest
import torch

from taskloom.choose.scores import h_score, logme
from taskloom.choose.space_map import SpaceMap, open_map
from taskloom.choose.surrogates.esm import esm, explained
from taskloom.errors import CheckpointError, DataError, NumericalError
from taskloom.store.statistic import Statistic

BASE = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
TUNED = BASE @ np.array([[0.0, 1.0], [1.0, 0.0]]) + [0.5, -0.5]


def drawn(n=60, d=5, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + rng.normal(size=d)
    return x, y + noise * rng.normal(size=y.shape)


def test_the_card_s_example_is_recovered():
    found = esm(BASE, TUNED, penalty=0)
    np.testing.assert_allclose(found.apply([[3.0, 2.0]]), [[2.5, 2.5]], atol=1e-5)
    np.testing.assert_allclose(found.weight, [[0, 1], [1, 0]], atol=1e-5)
    np.testing.assert_allclose(found.bias, [0.5, -0.5], atol=1e-5)
    assert explained(found, BASE, TUNED) == pytest.approx(1, abs=1e-6)


def test_closed_form_minimises_the_penalised_error():
    """Restated: no small step in any direction lowers squared error + penalty."""
    x, y = drawn()
    found = esm(x, y, penalty=0.05)
    strength = 0.05 * ((x - x.mean(0)) ** 2).sum() / x.shape[1]

    def loss(weight, bias):
        return ((x @ weight.T + bias - y) ** 2).sum() + strength * ((weight - np.eye(5)) ** 2).sum()

    best = loss(found.weight, found.bias)
    rng = np.random.default_rng(1)
    for _ in range(40):
        step = 1e-3 * rng.normal(size=(5, 6))
        assert loss(found.weight + step[:, :5], found.bias + step[:, 5]) > best - 1e-4


def test_a_large_penalty_leaves_the_base_but_for_a_shift():
    x, y = drawn()
    found = esm(x, y, penalty=1e9)
    np.testing.assert_allclose(found.weight, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(found.bias, (y - x).mean(0), atol=1e-5)


def test_released_training_restated():
    """AdamW written out: mean squared error, rate falling to 0, gradients cut at length 1."""
    x, y = drawn(n=10, d=2, seed=3)
    found = esm(x, y, solver="adamw", epochs=3, batch_size=4, learning_rate=0.05, seed=7)
    draw = torch.Generator().manual_seed(7)
    bound = 2**-0.5
    w = torch.empty(2, 2).uniform_(-bound, bound, generator=draw).double().numpy()
    b = torch.empty(2).uniform_(-bound, bound, generator=draw).double().numpy()
    m, v, t, steps = np.zeros((2, 3)), np.zeros((2, 3)), 0, 9
    for _ in range(3):
        order = torch.randperm(10, generator=draw).numpy()
        for rows in (order[:4], order[4:8], order[8:]):
            error = x[rows] @ w.T + b - y[rows]
            gradient = 2 / error.size * np.column_stack([error.T @ x[rows], error.sum(0)])
            gradient *= min(1.0, 1 / (np.linalg.norm(gradient) + 1e-6))
            rate = 0.05 * (1 - t / steps)
            t += 1
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            both = np.column_stack([w, b]) * (1 - rate * 0.01)
            both -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            w, b = both[:, :2], both[:, 2]
    np.testing.assert_allclose(found.weight, w, atol=1e-4)
    np.testing.assert_allclose(found.bias, b, atol=1e-4)


def test_both_solvers_find_the_same_map_in_the_end():
    x, y = drawn(noise=0.0)
    trained = esm(x, y, solver="adamw", epochs=200, learning_rate=0.02, weight_decay=0.0)
    np.testing.assert_allclose(trained.apply(x), esm(x, y, penalty=0).apply(x), atol=0.05)


def test_only_scores_that_see_scale_see_the_map():
    """An invertible map adds nothing: H-score stays, LogME moves."""
    x, y = drawn(n=80)
    labels = (x[:, 0] + 0.5 * np.random.default_rng(2).normal(size=80) > 0).astype(int)
    mapped = esm(x, y).apply(x)
    assert h_score(mapped, labels) == pytest.approx(h_score(x, labels), abs=1e-4)
    assert abs(logme(mapped, labels) - logme(x, labels)) > 1e-4


def test_explained_counts_against_the_base():
    x, y = drawn()
    identity = SpaceMap(np.eye(5), np.zeros(5))
    assert explained(identity, x, y) == pytest.approx(0, abs=1e-6)
    assert explained(identity, x, x) == 1.0
    found = esm(x, y)
    restated = 1 - ((x @ found.weight.T + found.bias - y) ** 2).sum() / ((y - x) ** 2).sum()
    assert explained(found, x, y) == pytest.approx(restated, abs=1e-6)
    narrow = esm(x, y[:, :2])
    assert 0 < explained(narrow, x, y[:, :2]) <= 1


def test_stored_and_opened_again(tmp_path):
    found = esm(BASE, TUNED).saying(expert="abc", task="spam")
    again = open_map(found.save(tmp_path / "spam.safetensors"))
    np.testing.assert_array_equal(again.weight, found.weight)
    np.testing.assert_array_equal(again.bias, found.bias)
    assert (again.table["expert"], again.table["task"]) == ("abc", "spam")
    assert again.nbytes == 4 * 6
    other = Statistic.of("fisher", {"weight": torch.zeros(1)}).save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="expected a space map"):
        open_map(other)


@pytest.mark.parametrize(
    ("base", "tuned", "error", "told"),
    [
        (BASE, TUNED[:3], DataError, "4 and 3 rows"),
        (BASE, np.full((4, 2), np.nan), NumericalError, "tuned_features"),
        (np.ones((4, 2)), TUNED, NumericalError, "differ between examples"),
        (BASE[:1], TUNED[:1], DataError, "two rows or more"),
    ],
)
def test_bad_input_is_refused(base, tuned, error, told):
    with pytest.raises(error, match=told):
        esm(base, tuned)


def test_another_width_is_refused():
    with pytest.raises(DataError, match=r"expected features \(N, 2\)"):
        esm(BASE, TUNED).apply(np.ones((3, 5)))
    with pytest.raises(DataError, match="expected weight"):
        SpaceMap(np.ones((2, 2)), np.ones(3))
