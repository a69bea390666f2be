"""Heads fitted by logistic regression."""

import sys

import numpy as np
import pytest

import taskloom.learn.head as module
from taskloom.errors import DataError, MissingExtra, NumericalError
from taskloom.learn.head import ABSENT_BIAS, DEFAULT_C, GRID, check_labels, fit_head

NAMES = ("a", "b", "c")


def clouds(n=90, d=6, classes=3, gap=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, d)) + gap * rng.normal(size=(classes, d))[labels], labels


def test_head_acts_on_raw_features():
    """Scale and shift of the features change the head, not what it says."""
    features, labels = clouds()
    plain = fit_head(features, labels, NAMES, task="t")
    factor, shift = np.array([1e-3, 1, 10, 100, 5, 2]), np.array([5, 0, -3, 1e2, 0, 1])
    moved = fit_head(features * factor + shift, labels, NAMES, task="t")
    np.testing.assert_allclose(
        moved.probabilities(features * factor + shift), plain.probabilities(features), atol=1e-3
    )
    assert (plain.labels, plain.task) == (NAMES, "t")


@pytest.mark.parametrize("spread", [7e-8, 1e-5])
def test_a_feature_that_hardly_varies_gets_no_weight_that_fine_tuning_could_move(spread):
    """It tells the classes apart, but so little of it is there that training on moves it far more."""
    features, labels = clouds(classes=2)
    features[:, 2] = 0.5 + spread * labels
    head = fit_head(features, labels, NAMES[:2], task="t")
    assert np.abs(head.weight).max() < 10
    assert np.abs(head.weight[:, 2]).max() < 1e-3
    without = fit_head(np.delete(features, 2, axis=1), labels, NAMES[:2], task="t")
    np.testing.assert_allclose(np.delete(head.weight, 2, axis=1), without.weight, atol=1e-3)
    moved = features + np.array([0, 0, 0.1, 0, 0, 0])
    np.testing.assert_array_equal(head.predict(moved), head.predict(features))


def test_a_feature_of_a_small_unit_keeps_its_weight():
    features, _ = clouds()
    assert module.hardly_vary(features * [1, 1e-3, 1, 1, 1, 1]).sum() == 0
    assert module.hardly_vary(features * [1, 1e-6, 1, 1, 1, 1]).tolist() == [False, True, *[False] * 4]
    assert module.hardly_vary(features[:, :1]).tolist() == [False]


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_scikit_learns(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels = clouds(classes=classes)
    head = fit_head(features, labels, NAMES[:classes], task="t", c=0.3)
    standard = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=0.3, max_iter=500).fit(standard, labels)
    np.testing.assert_allclose(head.probabilities(features), model.predict_proba(standard), atol=1e-4)


def test_fit_is_seeded_and_deterministic():
    features, labels = clouds()
    assert fit_head(features, labels, NAMES, task="t").digest() == (
        fit_head(features, labels, NAMES, task="t").digest()
    )


def test_strength_is_chosen_by_held_out_loss():
    noise = np.random.default_rng(0).normal(size=(60, 30))
    labels = np.arange(60) % 2
    standard = (noise - noise.mean(0)) / noise.std(0)
    assert module._choose_c(standard, labels, 0) == GRID[0]
    clear, labels = clouds(gap=8.0)
    assert module._choose_c(clear, labels, 0) == GRID[-1]


def test_few_labels_take_the_default():
    features, labels = clouds(n=9)
    assert module._choose_c(features, labels, 0) == DEFAULT_C
    assert fit_head(features, labels, NAMES, task="t").digest() == (
        fit_head(features, labels, NAMES, task="t", c=DEFAULT_C).digest()
    )


def test_cross_validation_looks_at_a_bounded_number(monkeypatch):
    seen = []
    fit = module._fit
    monkeypatch.setattr(module, "_fit", lambda x, y, c: seen.append(len(y)) or fit(x, y, c))
    monkeypatch.setattr(module, "CV_LIMIT", 60)
    features, labels = clouds(n=300)
    fit_head(features, labels, NAMES, task="t")
    assert max(seen[:-1]) <= 60
    assert seen[-1] == 300


def test_declared_class_without_examples_is_never_predicted():
    features, labels = clouds(classes=2, gap=6.0)
    head = fit_head(features, labels * 2, NAMES, task="t")
    assert head.bias[1] == ABSENT_BIAS
    assert not head.weight[1].any()
    assert set(head.predict(features).tolist()) == {0, 2}
    assert (head.predict(features) == labels * 2).mean() > 0.8


def test_constant_and_nearly_constant_columns_do_no_harm():
    features, labels = clouds()
    plain = fit_head(features, labels, NAMES, task="t", c=0.1)
    padded = np.hstack([features, np.full((90, 1), 7.0), 1e3 + 1e-7 * features[:, :1]])
    head = fit_head(padded, labels, NAMES, task="t", c=0.1)
    np.testing.assert_allclose(head.probabilities(padded), plain.probabilities(features), atol=1e-2)


def test_convergence_warnings_do_not_leak(monkeypatch):
    features, labels = clouds(gap=50.0)
    fit_head(features * 1e3, labels, NAMES, task="t", c=1e9)


def test_bad_input_is_refused():
    features, labels = clouds()
    with pytest.raises(DataError, match="two classes or more, found 1 among 90"):
        fit_head(features, labels * 0, NAMES, task="t")
    with pytest.raises(DataError, match="found 0 among 0"):
        fit_head(np.zeros((0, 3)), np.zeros(0, dtype=int), NAMES, task="t")
    with pytest.raises(DataError, match="labels from 0 to 1, found 2 in example 2"):
        fit_head(features, labels, NAMES[:2], task="t")
    with pytest.raises(DataError, match="found -1"):
        fit_head(features, labels - 1, NAMES, task="t")
    with pytest.raises(DataError, match=r"found \(90, 6\) and \(89,\)"):
        fit_head(features, labels[:-1], NAMES, task="t")
    with pytest.raises(DataError, match="integer labels"):
        fit_head(features, labels.astype(float), NAMES, task="t")
    features[4, 2] = np.nan
    with pytest.raises(NumericalError, match="row 4"):
        fit_head(features, labels, NAMES, task="t")


def test_check_labels_names_task_and_split():
    with pytest.raises(DataError, match=r"^task 'spam', validation: expected labels from 0 to 2"):
        check_labels([0, 3], NAMES, task="spam", split="validation")


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match="scikit-learn"):
        fit_head(*clouds(), NAMES, task="t")
