"""Overlap of learned masks: card B8."""

import numpy as np
import pytest
import torch

from taskloom.choose.masks import mask_overlap
from taskloom.errors import CheckpointError, PlanError
from taskloom.store.statistic import Statistic


def mask(*values, kind="graft"):
    marks = torch.tensor(values, dtype=torch.bool)
    return Statistic.of(kind, {"a": marks[:2].clone(), "b": marks[2:].clone()})


def test_card_b8():
    found = mask_overlap({"x": mask(1, 1, 0, 1, 0), "y": mask(1, 0, 0, 1, 1)})
    assert found.union[0, 1] == found.union[1, 0] == 0.5
    assert found.shared[0, 1] == pytest.approx(0.666667, abs=1e-6)
    assert found.sizes.tolist() == [3, 3]
    assert found.union.diagonal().tolist() == [1.0, 1.0]


def test_shares_are_of_the_rows_mask():
    found = mask_overlap({"small": mask(1, 0, 0, 0, 0), "large": mask(1, 1, 1, 1, 0)})
    np.testing.assert_allclose(found.shared, [[1.0, 1.0], [0.25, 1.0]])
    assert found.nearest("large") == [("small", 0.25)]


def test_the_nearest_first():
    third = {"c": mask(0, 0, 0, 0, 1), "b": mask(1, 0, 0, 1, 0)}
    found = mask_overlap({"a": mask(1, 1, 0, 1, 0), **third})
    assert [name for name, _ in found.nearest("a")] == ["b", "c"]


def test_an_empty_mask_shares_nothing():
    found = mask_overlap({"a": mask(0, 0, 0, 0, 0), "b": mask(1, 0, 0, 0, 0)})
    assert found.shared[0].tolist() == [0.0, 0.0]
    assert found.union[0, 1] == 0.0


def test_from_files(tmp_path):
    from taskloom.store.statistic import open_statistic

    paths = [mask(1, 1, 0, 1, i).save(tmp_path / f"{i}.safetensors") for i in (0, 1)]
    found = mask_overlap({str(p): open_statistic(p) for p in paths})
    assert found.union[0, 1] == 0.75


def test_bad_input():
    with pytest.raises(PlanError, match="two masks or more"):
        mask_overlap({"a": mask(1, 1, 1, 1, 1)})
    with pytest.raises(PlanError, match="found 'fisher'"):
        mask_overlap({"a": mask(1, 1, 1), "b": mask(1, 1, 1, kind="fisher")})
    with pytest.raises(CheckpointError, match=r"'b' .* has other tensors than that of 'a'"):
        mask_overlap({"a": mask(1, 1, 1), "b": mask(1, 1, 1, 1)})
    with pytest.raises(PlanError, match="no mask of 'z'"):
        mask_overlap({"a": mask(1, 1), "b": mask(1, 1)}).nearest("z")
