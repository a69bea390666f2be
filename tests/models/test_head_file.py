"""Heads: arithmetic, files, and what is refused."""

import numpy as np
import pytest

from taskloom.errors import CheckpointError, DataError
from taskloom.models.head import Head, head_names

WEIGHT = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
BIAS = np.array([0.0, 0.5, 0.25])


def head(**changes):
    fields = {"weight": WEIGHT, "bias": BIAS, "labels": ("a", "b", "ü c"), "task": "trec6"}
    return Head(**(fields | changes))


def test_logits_by_hand():
    found = head().logits([[2.0, 1.0], [0.0, 0.0]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[2.0, 2.5, -2.75], [0.0, 0.5, 0.25]])
    assert head().predict([[2.0, 1.0], [3.0, 0.0]]).tolist() == [1, 0]
    assert head().predict(np.zeros((0, 2))).shape == (0,)


def test_probabilities():
    found = head().probabilities([[2.0, 1.0], [1e4, -1e4]])
    np.testing.assert_allclose(found.sum(1), 1.0)
    expected = np.exp([2.0, 2.5, -2.75])
    np.testing.assert_allclose(found[0], expected / expected.sum(), rtol=1e-6)
    assert np.isfinite(found).all()


def test_saved_and_loaded(tmp_path):
    head().save(tmp_path)
    head(task="sms_spam").save(tmp_path)
    assert (tmp_path / "heads" / "trec6.safetensors").is_file()
    assert head_names(tmp_path) == ("sms_spam", "trec6")
    back = Head.load(tmp_path, "trec6")
    np.testing.assert_array_equal(back.weight, head().weight)
    np.testing.assert_array_equal(back.bias, head().bias)
    assert (back.labels, back.task) == (("a", "b", "ü c"), "trec6")
    assert back.digest() == head().digest()


def test_digest_sees_every_part():
    digests = {
        head().digest(),
        head(weight=WEIGHT + 1).digest(),
        head(bias=BIAS + 1).digest(),
        head(labels=("a", "b", "c")).digest(),
        head(task="other").digest(),
    }
    assert len(digests) == 5


def test_no_heads(tmp_path):
    assert head_names(tmp_path) == ()
    with pytest.raises(CheckpointError, match="no head for task 'x'; heads: none"):
        Head.load(tmp_path, "x")


def test_nearest_head_is_offered(tmp_path):
    head().save(tmp_path)
    with pytest.raises(CheckpointError, match="Did you mean 'trec6'"):
        Head.load(tmp_path, "trec")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x00" * 64])
def test_damaged_file(tmp_path, content):
    path = head().save(tmp_path)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"trec6.safetensors: expected a head"):
        Head.load(tmp_path, "trec6")


def test_shapes_labels_and_names_are_checked():
    with pytest.raises(DataError, match=r"found \(3, 2\), \(2,\) and 3 labels"):
        head(bias=BIAS[:2])
    with pytest.raises(DataError, match="and 2 labels"):
        head(labels=("a", "b"))
    with pytest.raises(DataError, match="distinct labels"):
        head(labels=("a", "b", "a"))
    for name in ("../evil", "", "a/b", ".hidden", "a..b", 3):
        with pytest.raises(DataError, match="expected a task name"):
            head(task=name)
    with pytest.raises(DataError, match=r"expected features \(N, 2\), found \(1, 3\)"):
        head().logits([[1, 2, 3]])
    with pytest.raises(DataError, match="found"):
        head().predict([1, 2])
