"""Embedding space maps on the leaderboard: made once, scored as they say, held against the sources."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.choose.scores import h_score, logme
from taskloom.choose.surrogates.esm import esm
from taskloom.runs.transfer import maps as module
from taskloom.runs.transfer.estimates import MapCost, path_of, read_estimates, write_estimates
from taskloom.runs.transfer.estimators import measure_estimates
from taskloom.runs.transfer.leaderboard import BY_MAPS, leaderboard, stand_ins
from taskloom.runs.transfer.plan import load_transfer_plan
from taskloom.runs.transfer.render import leaderboard_page, read_all
from taskloom.runs.transfer.sight import Sight
from taskloom.runs.transfer.source import source_expert
from taskloom.runs.transfer.target import entered, open_target

from .conftest import small
from .made_up import SEEDS, SOURCES, TARGETS, accuracies, estimates, matrix
from .test_leaderboard import NOISE, RIGHT


def test_maps_are_made_once_and_scored_as_the_functions_say(grid, tmp_path, monkeypatch):
    made = []
    plain = module.make_surrogate
    monkeypatch.setattr(module, "make_surrogate", lambda *w: made.append(w[1].name) or plain(*w))
    module.map_of.cache_clear()
    found = measure_estimates(
        small(grid.suite), matrix=tmp_path / "transfer_small.json", seeds=[0], only=list(BY_MAPS)
    )
    assert sorted(made) == ["digits_loop", "digits_mod3"]  # for two targets and two estimators
    plan = load_transfer_plan(small(grid.suite))
    source = source_expert(plan, "digits_loop", 0)
    sight = Sight(open_target(entered(plan), "digits_ten", 0), {"digits_loop": source})
    encoder, data = sight.target.reader.encoder, sight.source_data("digits_loop")
    weights = {n: module.open_checkpoint(source.directory).read(n) for n in encoder.state_dict()}
    tuned = encoder.features(data.train.inputs, weights=weights)
    seen = esm(encoder.features(data.train.inputs), tuned).apply(sight.base_features)
    rows = found.by_place()
    assert rows["esm_logme", "digits_ten", 0].values["digits_loop"] == pytest.approx(
        logme(seen, sight.labels), rel=1e-5
    )
    name = "esm_h_score(regularised=True)"
    assert rows[name, "digits_ten", 0].values["digits_loop"] == pytest.approx(
        h_score(seen, sight.labels, regularised=True), rel=1e-3
    )
    cost = found.seeds["0"].maps["digits_loop"]
    assert cost.bytes == 4 * encoder.dim * (encoder.dim + 1)
    assert cost.examples == len(data.train)
    assert cost.model_bytes > sum(t.numel() for t in weights.values())
    assert cost.seconds > 0
    kept = read_estimates(path_of(tmp_path / "transfer_small.json"))
    assert kept.seeds["0"].maps.keys() == {"digits_loop", "digits_mod3"}


def made_up():
    costs = MapCost(bytes=1000, model_bytes=50_000, seconds=3.0, examples=200, explained=0.5)
    found = estimates({"logme": RIGHT, "esm_logme": NOISE})
    seeds = {
        seed: each.model_copy(update={"maps": dict.fromkeys(SOURCES, costs)})
        for seed, each in found.seeds.items()
    }
    return found.model_copy(update={"seeds": seeds})


def test_regret_and_seconds_of_both_restated():
    found = made_up()
    (pair,) = stand_ins(leaderboard(matrix(), found), found, BY_MAPS)
    assert (pair.name, pair.full) == ("esm_logme", "logme")
    truth = accuracies().mean(0)
    wanted = []
    for t in range(len(TARGETS)):
        there = ~np.isnan(truth[:, t])
        own, best = truth[there, t], np.nanmax(truth[:, t])
        lost = [1 - own[np.argmax(NOISE[k][there, t])] / best for k in range(len(SEEDS))]
        wanted.append(np.mean(lost))
    ours, theirs, more = pair.regret["regret@1"]
    assert ours.mean == pytest.approx(np.mean(wanted))
    assert theirs.mean == 0
    assert more.mean == pytest.approx(np.mean(wanted))
    assert pair.seconds == pytest.approx(2.0 + 1.5)
    assert pair.full_seconds == pytest.approx(2.0 + 1.5 * np.mean([6, 6, 5]))
    assert stand_ins(leaderboard(matrix(), found), found, {"esm_logme": "gbc"}) == []


def test_the_page_tells_store_time_and_regret(tmp_path):
    path = tmp_path / "transfer_made_up.json"
    path.write_text(matrix().text(), encoding="utf-8")
    write_estimates(path_of(path), made_up())
    page = leaderboard_page(read_all(tmp_path))
    assert "### Small maps instead of sources, made_up" in page
    assert "A map has 0.00 MB where the model has 0.1 MB (50 times as much)" in page
    assert "took 3.0 seconds of a processor to make from 200 examples" in page
    assert "it explains 50 % of what fine-tuning changed" in page
    assert "| `esm_logme` | 3.50 |" in page
    assert "| `logme` | 10.50 | 0.00 [0.00, 0.00] |" in page
    write_estimates(path_of(path), estimates({"logme": RIGHT}))
    assert "Small maps" not in leaderboard_page(read_all(tmp_path))
