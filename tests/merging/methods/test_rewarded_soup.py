"""Rewarded soups: card 3."""

import numpy as np
import pytest
import torch

from taskloom.errors import NumericalError, PlanError
from taskloom.merging.soup import pareto, rewarded_soup, simplex
from taskloom.runs.front import front_chart, save_front

from ..fixture import THETA1, THETA2, close, merged, weights

POOL = {"one": weights(THETA1), "two": weights(THETA2)}


def near(target):
    goal = torch.tensor(target)
    return lambda given: -float(((given["w"] - goal) ** 2).sum())


REWARDS = {"R1": near(THETA1), "R2": near(THETA2)}


def test_card_3():
    found = rewarded_soup(POOL, REWARDS, levels=5)
    expected = [
        [0.0, -1.039062],
        [-0.064941, -0.584473],
        [-0.259766, -0.259766],
        [-0.584473, -0.064941],
        [-1.039062, 0.0],
    ]
    np.testing.assert_allclose([m.rewards for m in found.mixtures], expected, atol=1e-6)
    assert [m.weights[1] for m in found.mixtures] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(m.on_front for m in found.mixtures)
    sums = [sum(m.rewards) for m in found.mixtures]
    assert sums[2] - (sums[0] + sums[4]) / 2 == pytest.approx(0.519531, abs=1e-6)


def test_a_preference_chooses_a_mixture_and_the_method_makes_it():
    found = rewarded_soup(POOL, REWARDS)
    assert len(found.mixtures) == 11
    assert found.best({"R1": 1.0}).weights == (1.0, 0.0)
    chosen = found.best({"R1": 1.0, "R2": 1.0})
    assert chosen.weights == (0.5, 0.5)
    soup = merged("rewarded_soup", preference=list(found.best({"R1": 3.0, "R2": 1.0}).weights))
    shares = found.best({"R1": 3.0, "R2": 1.0}).weights
    assert soup == close(shares[0] * np.array(THETA1) + shares[1] * np.array(THETA2))


def test_what_is_beaten_is_not_on_the_front():
    rewards = {**REWARDS, "R2": near(THETA1)}  # both want the first
    found = rewarded_soup(POOL, rewards, levels=3)
    assert [m.on_front for m in found.mixtures] == [True, False, False]
    assert found.front == found.mixtures[:1]


def test_pareto_by_its_definition():
    points = np.random.default_rng(0).integers(0, 4, size=(40, 3))
    for point, marked in zip(points, pareto(points.tolist()), strict=True):
        beaten = ((points >= point).all(1) & (points > point).any(1)).any()
        assert marked == (not beaten)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_grid_covers_the_simplex(count):
    grid = list(simplex(count, 5))
    assert len(set(grid)) == len(grid)
    assert all(sum(w) == pytest.approx(1) and min(w) >= 0 for w in grid)
    assert {tuple(float(i == k) for i in range(count)) for k in range(count)} <= set(grid)


def test_the_table_and_the_picture(tmp_path):
    found = rewarded_soup(POOL, REWARDS, levels=3)
    row = {"weight one": 0.5, "weight two": 0.5, "R1": -0.259765625, "R2": -0.259765625}
    assert found.table()[1] == {**row, "on_front": True}
    rows = front_chart(found)["data"]["values"]
    assert [r["kind"] for r in rows] == ["on the front"] * 3
    assert rows[1]["weights"] == "one 0.5, two 0.5"
    pytest.importorskip("vl_convert")
    assert save_front(found, tmp_path / "front.svg").read_text().startswith("<svg")
    assert save_front(found, tmp_path / "front.png", x="R2", y="R1").read_bytes()[:4] == b"\x89PNG"


def test_bad_input(tmp_path):
    with pytest.raises(PlanError, match="found 1, 11 and 2"):
        rewarded_soup({"one": POOL["one"]}, REWARDS)
    with pytest.raises(NumericalError, match="reward 'nan' is NaN"):
        rewarded_soup(POOL, {"nan": lambda _: float("nan")})
    found = rewarded_soup(POOL, {"R1": REWARDS["R1"]}, levels=2)
    with pytest.raises(PlanError, match="no reward 'R9'"):
        found.best({"R9": 1.0})
    with pytest.raises(PlanError, match="over two rewards"):
        front_chart(found)
    with pytest.raises(PlanError, match=r"ends with \.png or \.svg"):
        save_front(found, tmp_path / "front.pdf")
