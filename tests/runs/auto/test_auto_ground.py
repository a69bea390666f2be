"""Which labels of a target fit, choose and check: by a split of its own where that is large enough."""

import numpy as np
import pytest

from taskloom.runs.auto.ground import LEAST_JUDGED, lay

from .test_auto_one_label import data_of


@pytest.mark.parametrize(("validation", "regime"), [(63, "cross-validation"), (64, "held out")])
def test_labels_to_choose_and_to_check_by_are_enough_or_folds_are_dealt(validation, regime):
    """Of two classes with 24 a class and more, so that all labels together are not few."""
    data = data_of([0, 1] * 60, [0, 1] * (validation // 2) + [0] * (validation % 2), ("one", "other"))
    ground = lay(data, seed=0)
    assert ground.regime == regime
    rows = np.concatenate([ground.search, ground.check])
    assert len(np.unique(rows)) == len(rows)
    expected = 120 + validation if regime == "cross-validation" else validation
    assert len(rows) == expected
    assert min(len(ground.search), len(ground.check)) >= LEAST_JUDGED


def test_64_labels_of_two_classes_are_judged_by_half_of_them():
    data = data_of([0, 1] * 24, [0, 1] * 8, ("one", "other"))
    ground = lay(data, seed=0)
    assert ground.regime == "cross-validation"
    assert len(ground.check) == 32
    assert sorted(np.concatenate([s.judged for s in ground.last(1.0)])) == sorted(ground.check)
