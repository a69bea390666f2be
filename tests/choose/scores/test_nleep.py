"""N-LEEP: card A3, whose tests are properties."""

import sys
from math import log

import numpy as np
import pytest

from taskloom.choose.pca import principal
from taskloom.choose.scores import leep, nleep
from taskloom.choose.scores.nleep import _leading
from taskloom.errors import DataError, MissingExtra


def clouds(gap, n=90, d=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, d)) + gap * rng.normal(size=(classes, d))[labels], labels


def test_one_component_gives_minus_the_entropy(monkeypatch):
    """One component for all classes, which the option does not reach."""
    from taskloom.choose.scores.leep import expected_prediction

    labels, counts = np.array([0, 0, 0, 1]), np.array([3, 1])
    found = expected_prediction(np.ones((4, 1)), labels, counts, logarithm=True)
    assert found == pytest.approx(0.75 * log(0.75) + 0.25 * log(0.25))


def test_components_of_one_class_each_reach_zero():
    features, labels = clouds(gap=40.0)
    assert nleep(features, labels) == pytest.approx(0.0, abs=1e-9)


def test_is_leep_of_the_mixture():
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    features, labels = clouds(gap=1.0)
    reduced = PCA(0.8).fit_transform(features)
    theta = GaussianMixture(6, random_state=3).fit(reduced).predict_proba(reduced)
    assert nleep(features, labels, ratio=2, seed=3) == pytest.approx(
        leep(features, labels, theta), abs=1e-6
    )


@pytest.mark.parametrize("variance", [0.3, 0.8, 0.99, 1.0])
def test_keeps_as_many_components_as_scikit_learn(variance):
    from sklearn.decomposition import PCA

    features, _ = clouds(gap=1.0, d=9)
    wanted = features.shape[1] if variance == 1.0 else PCA(variance).fit(features).n_components_
    assert _leading(features, variance).shape == (90, wanted)


@pytest.mark.parametrize(("n", "d"), [(30, 7), (6, 7)])
def test_principal_components_are_those_of_scikit_learn(n, d):
    from sklearn.decomposition import PCA

    features, _ = clouds(gap=1.0, n=n, d=d)
    scores, variances = principal(features)
    model = PCA().fit(features)
    np.testing.assert_allclose(variances, model.explained_variance_, atol=1e-10)
    useful = variances > 1e-9
    theirs = model.transform(features)
    np.testing.assert_allclose(scores[:, useful], theirs[:, useful], atol=1e-8)
    leading, most = principal(features, 3)
    np.testing.assert_allclose(leading, scores[:, :3], atol=1e-10)
    np.testing.assert_allclose(most, variances[:3], atol=1e-12)
    assert principal(features, 99)[0].shape == scores.shape


def test_is_seeded():
    features, labels = clouds(gap=0.5)
    assert nleep(features, labels, seed=1) == nleep(features, labels, seed=1)


@pytest.mark.parametrize("covariance", ["tied", "diag", "spherical"])
def test_other_covariances(covariance):
    near, labels = clouds(gap=0.3)
    far, _ = clouds(gap=6.0)
    assert nleep(near, labels, covariance=covariance) < nleep(far, labels, covariance=covariance) <= 0


def test_without_the_logarithm():
    features, labels = clouds(gap=1.0)
    mean = nleep(features, labels, logarithm=False)
    assert np.exp(nleep(features, labels)) < mean < 1


def test_too_few_examples_for_the_components():
    features, labels = clouds(gap=1.0, n=14)
    with pytest.raises(DataError, match=r"found 14 examples and 15 components, 5 for each of 3 classes"):
        nleep(features, labels)
    assert np.isfinite(nleep(features, labels, ratio=2))


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(MissingExtra, match="scikit-learn"):
        nleep(*clouds(gap=1.0))
