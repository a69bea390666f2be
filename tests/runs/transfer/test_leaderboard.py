"""Estimators held against a made-up matrix: the right one wins, and every number is recomputed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy.stats import spearmanr, weightedtau

from taskloom.errors import DataError, IntegrityError, OutputError
from taskloom.runs.transfer.api import read_values
from taskloom.runs.transfer.estimates import Estimates, path_of, read_estimates, write_estimates
from taskloom.runs.transfer.leaderboard import (
    MEASURES,
    agreement,
    by_chance,
    chance,
    known_of,
    leaderboard,
    predictions,
    standing,
    truths,
    values_of,
)
from taskloom.runs.transfer.ledger import Matrix
from taskloom.runs.transfer.matrix import grid_of

from .made_up import SEEDS, SOURCES, TARGETS, accuracies, estimates, matrix

RIGHT = np.stack([accuracies().mean(0)] * 2)
NOISE = np.random.default_rng(5).normal(size=(2, 6, 3))


@pytest.fixture(scope="module")
def board():
    found = leaderboard(matrix(), estimates({"right": RIGHT, "wrong": -RIGHT, "noise": NOISE}))
    return {one.name: one for one in found}


def test_who_knows_the_truth_is_first_and_who_turns_it_round_last(board):
    names = list(board)
    assert names[0] == "right"
    assert names.index("wrong") > names.index("random")
    for measure in MEASURES:
        wanted = 0.0 if measure.startswith("regret") else 1.0
        assert board["right"].measures[measure].mean == pytest.approx(wanted)
    assert board["wrong"].measures["spearman"].mean == pytest.approx(-1.0)


def test_a_number_of_the_board_is_a_mean_over_seeds_and_then_over_targets(board):
    truth = accuracies().mean(0)
    taus, correlations = [], []
    for t in range(3):
        there = ~np.isnan(truth[:, t])
        both = [(NOISE[k, there, t], truth[there, t]) for k in range(2)]
        taus.append(np.mean([weightedtau(a, b).statistic for a, b in both]))
        correlations.append(np.mean([spearmanr(a, b).statistic for a, b in both]))
    assert board["noise"].measures["weighted tau"].mean == pytest.approx(np.mean(taus))
    assert board["noise"].measures["spearman"].mean == pytest.approx(np.mean(correlations))
    assert board["noise"].by_target["weighted tau"]["u"] == pytest.approx(taus[1])
    assert board["noise"].seconds == 2.0


def test_measures_of_the_card():
    scores, truth = np.array([0.9, 0.7, 0.8, 0.1]), np.array([0.80, 0.78, 0.70, 0.60])
    assert agreement(scores, truth)["weighted tau"] == pytest.approx(0.733333, abs=1e-6)
    order = np.array([0.7, 0.9, 0.8, 0.1])  # b, c, a, d
    assert agreement(order, truth)["regret@1"] == pytest.approx(0.025)
    predicted = np.array([3.0, 4.0, 1.0, 2.0])  # b, a, d, c
    assert agreement(predicted, truth)["ndcg"] == pytest.approx(0.855194, abs=1e-6)


def test_chance_is_the_mean_over_all_orders():
    truth = np.array([0.9, 0.5, 0.7, 0.6, 0.4, 0.8])
    orders = [agreement(np.array(each, float), truth) for each in itertools.permutations(range(6))]
    for measure, value in by_chance(truth).items():
        assert value == pytest.approx(np.mean([each[measure] for each in orders]), abs=1e-9), measure


def test_chance_of_a_small_target_has_no_regret_at_5():
    found = by_chance(np.array([0.9, 0.5]))
    assert found["regret@3"] is None
    assert found["regret@1"] == pytest.approx(0.4 / 0.9 / 2)
    assert set(by_chance(np.array([0.5, 0.5])).values()) == {None, 0.0}


def test_the_row_of_chance_is_of_all_targets(board):
    found = chance(truths(grid_of(matrix(), "full")))
    assert found.measures["weighted tau"].mean == 0
    assert board["random"].measures["regret@1"].targets == 3


def test_a_source_without_a_value_ranks_last_and_is_counted():
    truth = truths(grid_of(matrix(), "full"))
    values = {("t", 0): dict(zip(SOURCES, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], strict=True))}
    whole = standing("w", values, truth)
    del values["t", 0]["f"]
    lacking = standing("w", values, truth)
    assert lacking.missing == 1
    assert whole.missing == 0
    assert lacking.by_target == whole.by_target
    assert list(lacking.by_target["ndcg"]) == ["t"]


def test_values_of_no_target_are_refused():
    with pytest.raises(DataError, match="expected values for some target of the matrix"):
        standing("w", {("elsewhere", 0): {"a": 1.0}}, truths(grid_of(matrix(), "full")))


def test_a_cell_without_every_seed_is_no_truth():
    tests = accuracies()
    tests[1, 3, 0] = np.nan
    found = truths(grid_of(matrix(tests), "full"))
    assert found[0].sources == ("a", "b", "c", "e", "f")
    assert found[2].sources == ("b", "c", "d", "e", "f")


def test_a_matrix_of_another_way_or_none_is_refused():
    for empty in (Matrix(), matrix()):
        with pytest.raises(DataError, match="no target with two sources that were tried by 'lora'"):
            leaderboard(empty, Estimates(), way="lora")


# --- predictors ---------------------------------------------------------------------------------


def test_predictors_never_see_the_targets_own_column():
    grid, found = grid_of(matrix(), "full"), estimates({"roe": NOISE, "right": RIGHT})
    before = predictions(grid, found)
    assert sorted(before) == ["mean_gain", "ridge_gain", "taskshop"]
    tests = accuracies()
    tests[:, :, 1] = np.random.default_rng(9).uniform(size=(2, 6))
    after = predictions(grid_of(matrix(tests), "full"), found)
    for name, values in before.items():
        for seed in SEEDS:
            assert after[name]["u", seed] == values["u", seed], name
            assert after[name]["t", seed] != values["t", seed], name


def test_what_is_known_of_a_target():
    known = known_of(grid_of(matrix(), "full"), estimates({"roe": NOISE}), "a", 1, likeness=True)
    assert known.change.shape == (2, 6, 2)
    assert known.change[0, 2, 1] == pytest.approx(accuracies()[0, 2, 1] / 0.7 - 1)
    assert known.pivots == pytest.approx([0.5, 0.5])
    assert known.likeness[1] == NOISE[1, 1, 2]
    assert known.likeness[0] == pytest.approx(NOISE[1, 1:, 2].mean())  # a is the target itself
    assert known.scores.shape == (1, 6)
    assert known.scores_before.shape == (1, 6, 2)


def test_taskshop_needs_a_likeness_and_mean_gain_does_not():
    found = predictions(grid_of(matrix(), "full"), estimates({"right": RIGHT}))
    assert sorted(found) == ["mean_gain", "ridge_gain"]
    assert sorted(predictions(grid_of(matrix(), "full"), Estimates())) == ["mean_gain"]


# --- files --------------------------------------------------------------------------------------


def test_estimates_are_written_and_read(tmp_path):
    found, path = estimates({"right": RIGHT}), path_of(tmp_path / "transfer_x.json")
    write_estimates(path, found)
    again = read_estimates(path)
    assert again.names == ["right"]
    for place, values in values_of(again, "right").items():
        assert values == pytest.approx(values_of(found, "right")[place])
    assert read_estimates(tmp_path / "none.json") == Estimates()
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(OutputError, match="expected estimates of format 1"):
        read_estimates(path)


def test_estimates_of_something_else_are_refused():
    found = estimates({"right": RIGHT})
    found.check(matrix(), "here")
    with pytest.raises(IntegrityError, match="expected estimates of the matrix 'made_up', found 'x'"):
        found.model_copy(update={"plan": "x"}).check(matrix(), "here")
    other = found.seeds["1"].model_copy(update={"experts": {"b": "another"}})
    with pytest.raises(IntegrityError, match="the expert of 'b', seed 1, is not what the matrix was"):
        found.model_copy(update={"seeds": {"1": other}}).check(matrix(), "here")


def test_values_of_your_own_join_the_board(tmp_path):
    path = tmp_path / "mine.json"
    truth = accuracies().mean(0)
    content = {
        target: {s: truth[i, t] for i, s in enumerate(SOURCES) if s != target}
        for t, target in enumerate(TARGETS)
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    mine = read_values(path, matrix())
    found = leaderboard(matrix(), estimates({"noise": NOISE}), more={"mine": mine})
    assert found[0].name == "mine"
    assert found[0].measures["weighted tau"].mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected a JSON file of values"),
        ("[1]", "expected targets and their values, found list"),
        ('{"x": {}}', "the matrix has no target 'x'"),
        ('{"t": 1}', "t: expected sources and values"),
        ('{"t": {"x": 1}}', "the matrix has no source 'x'"),
        ('{"t": {"a": NaN}}', "a on t: expected a finite number, found nan"),
        ('{"t": {"a": true}}', "a on t: expected a finite number, found True"),
    ],
)
def test_values_that_are_none_are_refused(tmp_path, text, said):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_values(path, matrix())
