"""Data maps restated as the released code has them, and those of a head that learns."""

import numpy as np
import pytest

from taskloom.choose.data_map import data_map, while_learned
from taskloom.errors import DataError, NumericalError


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_restated_example_by_example():
    rng = np.random.default_rng(0)
    table, labels = softmax(rng.normal(size=(5, 8, 3))), rng.integers(0, 3, 8)
    found = data_map(table, labels)
    for i, label in enumerate(labels):
        trend = [float(table[e, i, label]) for e in range(5)]
        right = [int(np.argmax(table[e, i])) == label for e in range(5)]
        assert found.confidence[i] == pytest.approx(sum(trend) / 5)
        assert found.variability[i] == pytest.approx(np.std(trend))
        assert found.correctness[i] == pytest.approx(sum(right) / 5)
        learnt, times = False, 0
        for now in right:
            times += learnt and not now
            learnt = now
        assert found.forgotten[i] == (times if any(right) else -1)


def test_the_card_s_deviation_is_over_one_epoch_less():
    """STG-MTL's numbers (.5, .360555) divide by E - 1, cartography's by E."""
    found = data_map([[[0.2, 0.8]], [[0.4, 0.6]], [[0.9, 0.1]]], [0])
    assert found.confidence[0] == pytest.approx(0.5)
    assert found.variability[0] * np.sqrt(3 / 2) == pytest.approx(0.360555, abs=1e-6)


def test_regions():
    steady_right, steady_wrong, shaky = [0.9, 0.9], [0.1, 0.1], [0.1, 0.9]
    right = np.array([steady_right, steady_wrong, shaky]).T
    found = data_map(np.stack([right, 1 - right], axis=2), [0, 0, 0])
    assert found.regions() == ["easy", "hard", "ambiguous"]
    assert found.regions(0.0) == ["easy", "hard", "easy"]


def test_a_wrong_label_is_hard_to_learn():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 5)) + 3.0 * np.eye(2, 5)[labels]
    wrong = labels.copy()
    wrong[:4] = 1 - wrong[:4]
    found = data_map(while_learned(features, wrong), wrong)
    assert found.confidence[:4].max() < np.median(found.confidence[4:])
    assert found.correctness[4:].mean() > 0.9


def test_probabilities_and_the_seed():
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
    once = while_learned(features, labels, epochs=3, seed=5)
    assert once.shape == (3, 30, 3)
    np.testing.assert_allclose(once.sum(2), 1)
    np.testing.assert_array_equal(once, while_learned(features, labels, epochs=3, seed=5))
    longer = while_learned(features, labels, epochs=60, learning_rate=0.05)
    assert data_map(longer, labels).confidence.mean() > data_map(once, labels).confidence.mean()


def test_converges_to_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(40, 2)), rng.integers(0, 2, 40)
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1e6).fit(scaled, labels).predict_proba(scaled)
    ours = while_learned(features, labels, epochs=400, batch_size=40, learning_rate=0.03)[-1]
    np.testing.assert_allclose(ours, theirs, atol=0.01)


@pytest.mark.parametrize(
    ("table", "labels", "error", "told"),
    [
        (np.full((1, 2, 2), 0.5), [0, 1], DataError, "two epochs or more"),
        (np.full((2, 2, 2), 0.5), [0], DataError, "labels"),
        (np.full((2, 2, 2), 0.5), [0, 2], DataError, "from 0 to 1"),
        (np.full((2, 2, 2), 0.5), [0.0, 1.0], DataError, "integer"),
        (np.full((2, 2, 2), 0.9), [0, 1], DataError, "sum to 1"),
        (np.full((2, 2, 2), np.nan), [0, 1], NumericalError, "NaN"),
    ],
)
def test_bad_input_is_refused(table, labels, error, told):
    with pytest.raises(error, match=told):
        data_map(table, labels)
