"""TaskShop against the card's numbers and the rule written out anew, source by source."""

from __future__ import annotations

import numpy as np
import pytest

from taskloom.choose.predictors.known import Known
from taskloom.choose.predictors.taskshop import combined, roe, taskshop, transfer_score
from taskloom.errors import DataError, NumericalError


def known(change, likeness, pivots):
    return Known(np.asarray(change, float), np.asarray(likeness, float), np.asarray(pivots, float))


def test_transfer_scores_of_the_card():
    assert combined(0.04, 0.75) == pytest.approx(0.045)
    runs = np.array([0.82, 0.79, 0.80]) / 0.80 - 1
    assert runs.mean() == pytest.approx(0.004167, abs=1e-6)
    assert transfer_score(runs) == pytest.approx(-0.014583, abs=1e-6)


def test_the_score_of_the_card_through_two_pivots():
    # T of 0.045 and 0.01: mean relative gains that give them where half of the runs are above the base
    first, second = 2 * 0.045, 2 * 0.01
    change = [[[first + 1, second + 1]], [[first - 1, second - 1]]]
    assert transfer_score(change).ravel() == pytest.approx([0.045, 0.01])
    found = taskshop(known(change, [0.5], [0.6, 0.8]), share=0.7)
    assert found == pytest.approx([0.404625])
    assert 5 * found - 0.6 == pytest.approx([1.423125])
    assert taskshop(known(change, [0.5], [0.6, 0.8]), share=1.0) == pytest.approx([0.36375])
    assert taskshop(known(change, [0.5], [0.6, 0.8]), share=0.0) == pytest.approx([0.5])


def test_each_source_goes_through_the_pivots_that_it_was_tried_on():
    random = np.random.default_rng(0)
    change = random.normal(0, 0.05, size=(3, 4, 5))
    change[:, 1, 2] = np.nan
    change[0, 2, 0] = np.nan
    likeness, pivots = random.random(4), random.random(5)
    found = taskshop(known(change, likeness, pivots), share=0.6)
    for s in range(4):
        through = []
        for p in range(5):
            runs = [change[k, s, p] for k in range(3) if not np.isnan(change[k, s, p])]
            if runs:
                above = sum(run > 0 for run in runs) / len(runs)
                score = sum(runs) / len(runs) / 2 + (0.2 * above - 0.1) / 2
                through.append((score + pivots[p]) / 2)
        wanted = 0.6 * sum(through) / len(through) + 0.4 * likeness[s]
        assert found[s] == pytest.approx(wanted)


def test_a_source_that_was_tried_on_nothing_has_no_number():
    change = np.array([[[0.1], [np.nan]]])
    found = taskshop(known(change, [0.1, 0.9], [0.5]))
    assert np.isnan(found[1])
    assert not np.isnan(found[0])


def test_a_run_at_the_base_is_not_above_it():
    assert transfer_score([0.0, 0.0]) == pytest.approx(-0.05)


def test_roe_is_the_mean_of_the_nearest_cosine_and_has_a_direction():
    random = np.random.default_rng(1)
    target, source = random.normal(size=(4, 3)), random.normal(size=(6, 3))
    wanted = []
    for one in target:
        cosines = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in source]
        wanted.append(max(cosines))
    assert roe(target, source) == pytest.approx(np.mean(wanted))
    assert roe(source, source) == pytest.approx(1.0)
    assert roe(target, source) != pytest.approx(roe(source, target))
    assert roe(3 * target, source) == pytest.approx(roe(target, source))


@pytest.mark.parametrize(
    ("target", "source", "error", "said"),
    [
        ([[1.0, 0.0]], [[1.0]], DataError, "expected embeddings of one model, found 2 columns"),
        ([], [[1.0]], DataError, r"expected embeddings \(n, D\) of the target"),
        ([[1.0]], [1.0], DataError, r"expected embeddings \(n, D\) of the source"),
        ([[1.0], [0.0]], [[1.0]], NumericalError, "of the target that are not 0, found row 1"),
        ([[1.0]], [[np.nan]], NumericalError, "of the source that are not 0, found row 0"),
    ],
)
def test_embeddings_that_cannot_be_are_refused(target, source, error, said):
    with pytest.raises(error, match=said):
        roe(target, source)
