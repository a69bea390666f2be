"""Which words tasks look at, and how many they share."""

import numpy as np
import pytest

from taskloom.choose.attribution import jaccard, top_words, weight_cosine, word_weights
from taskloom.errors import DataError, NumericalError


def test_the_card_s_overlap():
    assert jaccard({1, 4, 7}, {4, 7, 9}) == 0.5
    assert jaccard(set(), set()) == 0.0


def test_every_text_counts_the_same():
    tokens = [[0, 1, 1], [2]]
    found = word_weights(tokens, [[1.0, -1.0, 2.0], [100.0]], 4)
    np.testing.assert_allclose(found, [0.125, 0.375, 0.5, 0.0])
    assert found.sum() == pytest.approx(1)
    silent = word_weights([[0], [1]], [[0.0], [3.0]], 2)
    np.testing.assert_allclose(silent, [0.0, 0.5])


def test_top_words_leave_out_what_nobody_looks_at():
    assert top_words(np.array([0.5, 0.0, 0.5, 0.2]), 2) == {0, 2}
    assert top_words(np.array([0.5, 0.0]), 2) == {0}


def test_cosine():
    assert weight_cosine(np.array([3.0, 0.0]), np.array([0.0, 2.0])) == 0
    assert weight_cosine(np.zeros(2), np.ones(2)) == 0.0


@pytest.mark.parametrize(
    ("tokens", "given", "error", "told"),
    [
        ([], [], DataError, "one text or more"),
        ([[0]], [[1.0], [2.0]], DataError, "found 1 and 2"),
        ([[0, 1]], [[1.0]], DataError, "each word"),
        ([[5]], [[1.0]], DataError, "below 2"),
        ([[0]], [[np.nan]], NumericalError, "finite"),
    ],
)
def test_bad_input_is_refused(tokens, given, error, told):
    with pytest.raises(error, match=told):
        word_weights(tokens, given, 2)
