"""What a matrix tells of sources, recomputed by hand on made-up numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr, weightedtau

from taskloom.runs.transfer.ledger import Matrix
from taskloom.runs.transfer.matrix import grid_of, grids
from taskloom.runs.transfer.tables import (
    ceiling,
    forgetting,
    negative_share,
    source_rows,
    trait_rows,
)

from .made_up import SOURCES, TARGETS, accuracies, matrix


def with_probe(change):
    """Return a matrix whose zero-shot rows differ from the fine-tuned ones by ``change`` (S, T)."""
    whole = matrix(ways=("full", "zero_shot"))
    rows = []
    for row in whole.rows:
        if row.way == "zero_shot" and row.source != "base":
            s, t = SOURCES.index(row.source), TARGETS.index(row.target)
            row = row.model_copy(update={"test": 0.7 + change[s, t]})
        rows.append(row)
    return whole.model_copy(update={"rows": rows})


def test_sources_are_ordered_by_their_mean_gain():
    gains = accuracies().mean(0) - 0.7
    rows = source_rows(grid_of(matrix(), "full"))
    means = {s: np.nanmean(gains[i]) for i, s in enumerate(SOURCES)}
    assert [row.source for row in rows] == sorted(means, key=means.get, reverse=True)
    for row in rows:
        s = SOURCES.index(row.source)
        assert row.gain.mean == pytest.approx(means[row.source])
        assert row.gain.low <= row.gain.mean <= row.gain.high
        runs = accuracies()[:, s]
        assert row.above == pytest.approx((runs[~np.isnan(runs)] > 0.7).mean())
        known = {t: gains[s, i] for i, t in enumerate(TARGETS) if not np.isnan(gains[s, i])}
        assert row.best[0] == max(known, key=known.get)
        assert row.worst[1] == pytest.approx(min(known.values()))


def test_traits_go_with_gains_as_their_ranks_do():
    gains = accuracies().mean(0) - 0.7
    centred = gains - np.nanmean(gains, axis=0)
    wanted = spearmanr(np.arange(6), np.nanmean(centred, axis=1)).statistic
    rows = {row.trait: row for row in trait_rows(matrix(), grid_of(matrix(), "full"), resamples=50)}
    size = rows["examples it was trained on"]
    assert size.correlation == pytest.approx(wanted)
    assert size.low <= size.correlation <= size.high
    assert size.sources == 6
    assert "classes" not in rows  # they all have two
    assert not any("probe" in trait for trait in rows)


def test_a_probe_is_a_trait_where_there_are_zero_shot_rows():
    gains = accuracies().mean(0) - 0.7
    whole = with_probe(np.nan_to_num(gains) / 2)
    rows = {row.trait: row for row in trait_rows(whole, grid_of(whole, "full"), resamples=50)}
    (probe,) = [row for trait, row in rows.items() if "probe" in trait]
    assert probe.correlation == pytest.approx(1.0)


def test_forgetting_counts_pairs_and_names_the_worst():
    gains = accuracies().mean(0) - 0.7
    change = np.random.default_rng(3).uniform(-0.1, 0.1, size=(6, 3))
    found = forgetting(with_probe(change), most=2)
    there = ~np.isnan(gains)
    assert found.cells == there.sum() == 17
    lost, hurt = (change < 0) & there, (gains < 0) & there
    assert (found.lost, found.lost_and_hurt) == (lost.sum(), (lost & hurt).sum())
    assert found.kept_and_hurt == (hurt & ~lost).sum()
    pairs = sorted((gains[s, t], s, t) for s, t in np.argwhere(lost & hurt))
    assert [row[:2] for row in found.worst] == [(SOURCES[s], TARGETS[t]) for _, s, t in pairs[:2]]
    masked = np.where(there, change, np.nan)
    x = (masked - np.nanmean(masked, axis=0))[there]
    y = (gains - np.nanmean(gains, axis=0))[there]
    assert found.correlation == pytest.approx(spearmanr(x, y).statistic)


def test_without_a_probe_nothing_is_said_of_forgetting():
    assert forgetting(matrix()) is None
    assert forgetting(Matrix()) is None


def test_the_ceiling_is_how_two_seeds_agree():
    tests = accuracies()
    taus = []
    for t in range(3):
        there = ~np.isnan(tests[0, :, t])
        taus.append(weightedtau(tests[0, there, t], tests[1, there, t]).statistic)
    assert ceiling(grid_of(matrix(), "full")).mean == pytest.approx(np.mean(taus))
    same = np.stack([tests[0], tests[0]])
    assert ceiling(grid_of(matrix(same), "full")).mean == pytest.approx(1.0)


def test_a_pair_loses_if_it_is_more_than_a_standard_error_below():
    tests = np.full((2, 6, 3), 0.7)
    tests[:, 0, 0], tests[:, 1, 0], tests[:, 2, 0] = 0.8, 0.6, 0.72
    error = np.sqrt(0.72 * 0.28 / 200 + 0.7 * 0.3 / 200)
    assert error > 0.02
    assert negative_share(grid_of(matrix(tests), "full")) == (1, 1, 18)


def test_a_way_without_rows_has_no_grid():
    assert grids(Matrix()) == []
    assert grid_of(matrix(), "lora") is None
