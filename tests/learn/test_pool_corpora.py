"""Several tasks as one to pretrain on."""

import numpy as np
import pytest

from taskloom.errors import DataError
from taskloom.learn.pretrain import Corpus, pool_corpora


def corpus(name, inputs, labels, names=("x", "y")):
    labels = np.asarray(labels)
    return Corpus(name, (inputs, labels), (inputs[:1], labels[:1]), names)


def test_labels_are_moved_past_those_before():
    shade = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    parts = [
        corpus("a", shade[:2], [1, 0]),
        corpus("b", shade[2:5], [2, 0, 1], ("x", "y", "z")),
        corpus("c", shade[5:], [1]),
    ]
    pooled = pool_corpora(parts, name="all")
    assert pooled.name == "all"
    assert pooled.label_names == ("a/x", "a/y", "b/x", "b/y", "b/z", "c/x", "c/y")
    inputs, labels = pooled.train
    assert np.array_equal(inputs, shade)
    assert inputs.dtype == np.uint8
    named = [pooled.label_names[i] for i in labels]
    assert named == ["a/y", "a/x", "b/z", "b/x", "b/y", "c/y"]
    assert pooled.validation[1].tolist() == [1, 4, 6]
    assert np.array_equal(pooled.validation[0], shade[[0, 2, 5]])


def test_texts_are_pooled_too():
    pooled = pool_corpora([corpus("a", ["p", "q"], [0, 1]), corpus("b", ["r"], [0])])
    assert pooled.train[0] == ["p", "q", "r"]
    assert pooled.train[1].tolist() == [0, 1, 2]


def test_names_must_differ():
    with pytest.raises(DataError, match=r"different names, found \['a', 'a'\]"):
        pool_corpora([corpus("a", ["p"], [0]), corpus("a", ["q"], [0])])


@pytest.mark.parametrize(
    "other",
    [np.zeros((1, 3, 3), np.uint8), np.zeros((1, 2, 2), np.float32), ["text"]],
    ids=["size", "kind", "text"],
)
def test_inputs_must_fit_together(other):
    parts = [corpus("a", np.zeros((1, 2, 2), np.uint8), [0]), corpus("b", other, [0])]
    with pytest.raises(DataError, match="expected inputs of 'b' like those of 'a'"):
        pool_corpora(parts)
