import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import registry
from taskloom.errors import UnknownName
from taskloom.evaluation.confusion import CONFUSION

PAIRS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


def metric(name, labels, predictions):
    return registry.get("metric", name).function(np.array(labels), np.array(predictions))


def counts_of(labels, predictions, classes=5):
    counts = np.zeros((1, classes, classes))
    for true, predicted in zip(labels, predictions, strict=True):
        counts[0, true, predicted] += 1
    return counts


def test_the_metrics():
    names = [e.name for e in registry.entries("metric")]
    assert names == ["accuracy", "balanced_accuracy", "macro_f1", "matthews"]
    assert set(names) == set(CONFUSION)


@pytest.mark.parametrize("name", sorted(CONFUSION))
@given(pair=PAIRS)
def test_counts_and_scikit_learn_agree(name, pair):
    from_counts = CONFUSION[name](counts_of(*pair))[0]
    assert from_counts == pytest.approx(metric(name, *pair), abs=1e-12)


@pytest.mark.parametrize("name", sorted(CONFUSION))
def test_perfect_is_one(name):
    assert metric(name, [0, 1, 2, 2], [0, 1, 2, 2]) == 1


def by_hand_macro_f1(labels, predictions):
    values = []
    for c in sorted(set(labels) | set(predictions)):
        hit = sum(t == p == c for t, p in zip(labels, predictions, strict=True))
        values.append(2 * hit / (labels.count(c) + predictions.count(c)))
    return sum(values) / len(values)


@given(pair=PAIRS)
def test_macro_f1_restated(pair):
    assert metric("macro_f1", *pair) == pytest.approx(by_hand_macro_f1(*pair))


def test_balanced_accuracy_of_a_lazy_classifier_is_chance():
    assert metric("balanced_accuracy", [0] * 90 + [1] * 10, [0] * 100) == 0.5


def test_matthews_of_two_classes_by_its_formula():
    tp, tn, fp, fn = 6, 3, 1, 2
    labels = [1] * tp + [0] * tn + [0] * fp + [1] * fn
    predictions = [1] * tp + [0] * tn + [1] * fp + [0] * fn
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert metric("matthews", labels, predictions) == pytest.approx((tp * tn - fp * fn) / root)


def test_matthews_of_a_constant_prediction_is_zero():
    assert metric("matthews", [0, 1, 1], [1, 1, 1]) == 0


def test_unknown_metric():
    with pytest.raises(UnknownName, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        registry.get("metric", "acuracy")
