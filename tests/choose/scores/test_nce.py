"""Negative conditional entropy: card A1."""

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.scores import nce
from taskloom.errors import DataError

Z = [0, 0, 0, 1, 1, 2, 2, 2]
Y = [0, 0, 1, 0, 1, 1, 1, 1]


def of(labels, source):
    return nce(np.arange(len(labels), dtype=float)[:, None], labels, source)


def counted(labels, source):
    """The same from counts: minus the entropy of the pairs plus that of the source labels."""
    n = len(labels)
    pairs = Counter(zip(labels, source, strict=True))
    return sum(k / n * log(k / n) for k in pairs.values()) - sum(
        k / n * log(k / n) for k in Counter(source).values()
    )


def test_card_a1():
    assert of(Y, Z) == pytest.approx(-0.411980, abs=1e-6)


def test_a_bijection_says_everything():
    assert of(Y, Y) == 0.0
    assert of(Y, [7 - y for y in Y]) == 0.0


def test_a_constant_source_says_nothing():
    assert of([0, 0, 1, 1], [5, 5, 5, 5]) == pytest.approx(-log(2))


def test_as_many_source_classes_as_examples_is_trivially_best():
    assert of(Y, range(8)) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 4)), min_size=4, max_size=30))
def test_equals_the_counts(pairs):
    labels, source = [y for y, _ in pairs], [z for _, z in pairs]
    if len(set(labels)) < 2:
        return
    value = of(labels, source)
    assert value == pytest.approx(counted(labels, source), abs=1e-12)
    assert -log(len(set(labels))) - 1e-12 <= value <= 0.0


def test_dbolya_s_smoothing_moves_the_fourth_decimal():
    joint = np.zeros((2, 3))
    np.add.at(joint, (Y, Z), 1 / 8)
    smooth = joint + 1e-5
    theirs = (smooth * np.log(smooth / (joint.sum(0) + 1e-5))).sum()
    assert 1e-5 < abs(theirs - of(Y, Z)) < 1e-3


@pytest.mark.parametrize("bad", [[0, 1], [0.5] * 8, [[0]] * 8])
def test_bad_source_labels(bad):
    with pytest.raises(DataError, match=r"^nce: expected 8 integers as source_labels"):
        of(Y, np.asarray(bad))


def test_one_class():
    with pytest.raises(DataError, match="two classes"):
        of([1] * 8, Z)
