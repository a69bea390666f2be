"""Sums that are read in blocks: the numbers of the whole, whatever the blocks, dtypes and offsets."""

import numpy as np
import pytest

from taskloom.choose.moments import moments, squared_lengths
from taskloom.choose.pca import reduce, reduced
from taskloom.choose.scores import gbc, h_score, logme, transrate
from taskloom.errors import NumericalError


def given(n=97, d=5, classes=4, dtype=np.float64, offset=3.0):
    rng = np.random.default_rng(8)
    labels = rng.permutation(np.arange(n) % classes)
    rows = (rng.normal(size=(n, d)) + labels[:, None] + offset).astype(dtype)
    return rows, labels, np.bincount(labels)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16])
@pytest.mark.parametrize("block", [1, 35, 2**22])
@pytest.mark.parametrize("centred", [True, False])
def test_the_whole_restated(dtype, block, centred):
    rows, labels, counts = given(dtype=dtype)
    found = moments("test", rows, labels, counts, centred=centred, block=block)
    whole = rows.astype(np.float64)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12)
    part = whole - whole.mean(0) if centred else whole
    np.testing.assert_allclose(found.gram, part.T @ part, rtol=1e-10, atol=1e-10)
    wanted = np.stack([part[labels == c].sum(0) for c in range(4)])
    np.testing.assert_allclose(found.sums, wanted, rtol=1e-10, atol=1e-10)
    lengths = squared_lengths(rows, found.mean, block=block)
    np.testing.assert_allclose(lengths, ((whole - whole.mean(0)) ** 2).sum(1), rtol=1e-12)
    assert found.n == 97


def test_a_far_offset_and_rows_sorted_by_class_lose_no_digits():
    """The first block holds one class alone, far from the rest, and all of them lie far from 0."""
    rows, labels, counts = given(n=400)
    order = np.argsort(labels, kind="stable")
    rows, labels = rows[order] + 100 * labels[order, None] + 1e7, labels[order]
    found = moments("test", rows, labels, counts, centred=True, block=50)
    part = rows - rows.mean(0)
    np.testing.assert_allclose(found.gram, part.T @ part, rtol=1e-9)


def test_scores_do_not_depend_on_blocks_or_on_where_features_lie(monkeypatch, tmp_path):
    rows, labels, _ = given(n=200, dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    calls = [
        logme,
        h_score,
        lambda x, y: h_score(x, y, regularised=True),
        transrate,
        lambda x, y: transrate(x, y, unit_rows=True),
        lambda x, y: gbc(x, y, components=3),
    ]
    wanted = [call(rows.astype(np.float64), labels) for call in calls]
    monkeypatch.setattr(moments, "__kwdefaults__", {"block": 64})
    monkeypatch.setattr(squared_lengths, "__kwdefaults__", {"block": 64})
    monkeypatch.setattr(reduced, "__kwdefaults__", {"block": 64})
    assert [call(mapped, labels) for call in calls] == pytest.approx(wanted, rel=1e-9)


def test_what_is_not_finite_or_does_not_vary_is_refused():
    rows, labels, counts = given()
    rows[40, 2] = np.nan
    with pytest.raises(NumericalError, match="test: expected finite features, found nan in row 40"):
        moments("test", rows, labels, counts, centred=True, block=35)
    with pytest.raises(NumericalError, match="test: expected features that differ"):
        moments("test", np.ones_like(rows), labels, counts, centred=True)
    rows[40, 2] = 1e200
    with pytest.raises(
        NumericalError, match=r"test: expected features whose squares are finite, found 1e\+200"
    ):
        moments("test", rows, labels, counts, centred=False)


@pytest.mark.parametrize("block", [8, 2**22])
def test_principal_components_without_a_copy(block):
    rows, labels, counts = given(n=80, d=6, dtype=np.float32)
    rows = rows * np.array([5, 4, 3, 2, 1, 0.5], dtype=np.float32)
    found = moments("test", rows, labels, counts, centred=True, block=block)
    wanted = reduce(rows.astype(np.float64), 3)
    np.testing.assert_allclose(reduced(rows, found, 3, block=block), wanted, rtol=1e-9, atol=1e-9)
