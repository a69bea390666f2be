"""Greedy soup: card 1."""

import numpy as np
import pytest
import torch

from taskloom.errors import NumericalError, PlanError
from taskloom.merging.soup import greedy_soup

from ..fixture import THETA1, THETA2, close, merged, weights

TARGET = torch.tensor([0.75, 0.0, 0.0, 0.25, 0.25, -0.5])
BAD = [3.0, -3.0, 3.0, -3.0, 3.0, -3.0]
POOL = {"theta1": weights(THETA1), "theta2": weights(THETA2), "bad": weights(BAD)}


def score(given):
    return float(1 / (1 + ((given["w"] - TARGET) ** 2).sum()))


def test_card_1():
    soup = greedy_soup(POOL, score)
    assert list(soup.singles) == ["theta2", "theta1", "bad"]
    assert list(soup.singles.values()) == pytest.approx([0.844884, 0.664935, 0.020645], abs=1e-6)
    assert soup.ingredients == ("theta2", "theta1")
    assert [(n, kept) for n, _, kept in soup.tried] == [("theta1", True), ("bad", False)]
    assert [s for _, s, _ in soup.tried] == pytest.approx([0.922523, 0.142946], abs=1e-6)
    expected = [0.875, -0.21875, 0.0625, 0.25, 0.375, -0.53125]
    assert soup.weights["w"].numpy() == close(expected)
    assert soup.score == pytest.approx(0.922523, abs=1e-6)


def test_the_method_averages_the_ingredients():
    names = list(POOL)
    pool = [THETA1, THETA2, BAD]
    found = merged("greedy_soup", experts=pool, names=names, ingredients=("theta2", "theta1"))
    assert found == close(greedy_soup(POOL, score).weights["w"].numpy())
    assert merged("greedy_soup", experts=pool) == close(np.mean(pool, axis=0))


def test_a_tie_is_kept_by_the_paper_and_left_out_by_released_code():
    twins = {"a": weights(THETA1), "b": weights(THETA1)}
    assert greedy_soup(twins, score).ingredients == ("a", "b")
    assert greedy_soup(twins, score, ties=False).ingredients == ("a",)


def test_it_is_never_worse_than_the_best_expert():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pool = {f"e{k}": weights(rng.normal(size=6).astype("f4").tolist()) for k in range(5)}
        soup = greedy_soup(pool, score)
        assert soup.score >= max(soup.singles.values())
        assert score(soup.weights) == soup.score


def test_bad_input():
    with pytest.raises(NumericalError, match="score of theta1 is NaN"):
        greedy_soup(POOL, lambda _: float("nan"))
    with pytest.raises(PlanError, match="greedy_soup: there is no expert 'theta3': did you mean"):
        merged("greedy_soup", names=["theta1", "theta2"], ingredients=("theta3",))
    with pytest.raises(PlanError, match="named twice"):
        merged("greedy_soup", ingredients=("a", "a"))
