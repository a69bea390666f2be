"""Domain divergences: card A11."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import sqrtm

from taskloom.choose import divergences
from taskloom.choose.divergences import OF_DISTRIBUTIONS, OF_SAMPLES
from taskloom.choose.rank import rank
from taskloom.choose.scores import domain_divergence
from taskloom.errors import DataError, NumericalError

A = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=float)
B = np.array([[1, 1], [2, 1], [1, 2], [2, 3]], dtype=float)
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
Y = [0, 0, 1, 1]


def test_card_a11_samples():
    assert divergences.frechet(A, B) == pytest.approx(2.726419, abs=1e-6)
    assert divergences.mmd(A, B, bandwidth=1.0) == pytest.approx(0.531860, abs=1e-6)
    assert divergences.mmd(A, B, bandwidth=1.0, unbiased=True) == pytest.approx(0.253865, abs=1e-6)
    assert divergences.coral(A, B) == pytest.approx(0.024740, abs=1e-6)
    assert divergences.mean_cosine(A, B) == pytest.approx(0.002946, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl", 0.274887), ("js", 0.066414), ("js_distance", 0.309541), ("renyi", 0.272323),
        ("bhattacharyya", 0.069934), ("cosine", 0.236842), ("wasserstein", 0.6), ("energy", 0.6),
    ],
)  # fmt: skip
def test_card_a11_distributions(name, value):
    assert OF_DISTRIBUTIONS[name](P, Q) == pytest.approx(value, abs=1e-6)


def test_renyi_of_two():
    assert divergences.renyi(P, Q, alpha=2) == pytest.approx(0.488580, abs=1e-6)


def test_proxy_a_of_an_error(monkeypatch):
    """The card's err of .15 gives 1.4; the error is that of the probe."""
    from taskloom.choose.scores import linear_probe as probe

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(60, 3)) + 30
    assert divergences.proxy_a(a, b) == 2.0
    assert abs(divergences.proxy_a(a, rng.normal(size=(60, 3)))) < 1.0
    rows = np.vstack([a, (near := rng.normal(size=(40, 3)) + 1)])
    accuracy = probe(rows, np.repeat([0, 1], 40))
    assert divergences.proxy_a(a, near) == pytest.approx(4 * accuracy - 2)
    module = importlib.import_module("taskloom.choose.scores.linear_probe")
    monkeypatch.setattr(module, "linear_probe", lambda *_, **__: 0.85)
    assert divergences.proxy_a(a, near) == pytest.approx(1.4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 12), d=st.integers(1, 6))
def test_frechet_by_the_square_root_of_a_matrix(seed, n, d):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(n + 2, d)) * 2 + 1
    c1, c2 = (np.atleast_2d(np.cov(x.T)) for x in (a, b))
    # the product has rank below d where n <= d: its eigenvalues are what the root's trace needs
    root = np.sqrt(np.maximum(np.linalg.eigvals(c1 @ c2).real, 0)).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * root
    assert divergences.frechet(a, b) == pytest.approx(wanted, abs=1e-5)
    if n > d:
        assert np.trace(sqrtm(c1 @ c2)).real == pytest.approx(root, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mmd_equals_the_loops(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)) + 1

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * 1.7**2))

    def mean(x, y, *, skip=False):
        found = [
            kernel(x[i], y[j]) for i in range(len(x)) for j in range(len(y)) if not (skip and i == j)
        ]
        return sum(found) / len(found)

    biased = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    unbiased = mean(a, a, skip=True) + mean(b, b, skip=True) - 2 * mean(a, b)
    assert divergences.mmd(a, b, bandwidth=1.7) == pytest.approx(biased, abs=1e-10)
    assert divergences.mmd(a, b, bandwidth=1.7, unbiased=True) == pytest.approx(unbiased, abs=1e-10)


def test_the_width_of_the_kernel_is_the_median_distance():
    rows = np.vstack([A, B])
    distances = [np.linalg.norm(x - y) for i, x in enumerate(rows) for y in rows[:i]]
    assert divergences.median_distance(rows) == pytest.approx(np.median(distances))
    assert divergences.mmd(A, B) == divergences.mmd(A, B, bandwidth=float(np.median(distances)))
    assert divergences.median_distance(np.ones((4, 2))) == 1.0


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=8))
def test_distributions_against_scipy(pairs):
    p, q = (np.array(side) / sum(side) for side in zip(*pairs, strict=True))
    places = np.arange(len(p))
    assert divergences.kl(p, q) == pytest.approx(stats.entropy(p, q), abs=1e-9)
    bits = stats.entropy((p + q) / 2, base=2) - (stats.entropy(p, base=2) + stats.entropy(q, base=2)) / 2
    assert divergences.js_distance(p, q) ** 2 == pytest.approx(bits, abs=1e-9)
    assert divergences.js(p, q) == pytest.approx(divergences.js(q, p), abs=1e-12)
    wasserstein = stats.wasserstein_distance(places, places, p, q)
    assert divergences.wasserstein(p, q) == pytest.approx(wasserstein, abs=1e-9)
    assert divergences.energy(p, q) == pytest.approx(
        stats.energy_distance(places, places, p, q), abs=1e-6
    )
    half = -2 * np.log(np.sqrt(p * q).sum())
    assert divergences.renyi(p, q, alpha=0.5) == pytest.approx(half, abs=1e-9)


@pytest.mark.parametrize("name", list(OF_DISTRIBUTIONS))
def test_the_same_distribution(name):
    assert OF_DISTRIBUTIONS[name](P, P) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", ["mean_cosine", "frechet", "coral", "mmd"])
def test_the_same_sample(name):
    assert OF_SAMPLES[name](B, B) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", list(OF_SAMPLES))
def test_further_is_further(name):
    rng = np.random.default_rng(1)
    here = rng.normal(size=(80, 4)) + 2
    near, far = (rng.normal(size=(80, 4)) * s + [2 + m, 2 - m, 2, 2] for s, m in ((1.2, 0.2), (3, 4)))
    assert OF_SAMPLES[name](here, near) < OF_SAMPLES[name](here, far)


def test_zeros_need_smoothing():
    p, q = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    for measure in (divergences.kl, divergences.renyi):
        with pytest.raises(NumericalError, match=r"found 1 symbols of probability 0\. Smooth"):
            measure(p, q)
    assert divergences.kl(q, p) == pytest.approx(np.log(2))
    assert divergences.js(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(np.log(2))
    with pytest.raises(NumericalError, match="a symbol in common"):
        divergences.bhattacharyya(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(divergences.smoothed(np.array([3.0, 0.0])), [0.8, 0.2])


def test_bad_distributions():
    with pytest.raises(DataError, match=r"found shapes \(3,\) and \(2,\)"):
        divergences.js(P, P[:2])
    with pytest.raises(DataError, match="found the sum 2"):
        divergences.js(P, 2 * Q)
    with pytest.raises(DataError, match="sum to 1"):
        divergences.js(P, np.array([1.5, -0.5, 0.0]))
    with pytest.raises(NumericalError, match="other than 1"):
        divergences.renyi(P, Q, alpha=1.0)


# --- the score -------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", list(OF_SAMPLES))
def test_the_score_is_minus_the_divergence(measure):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(20, 3)) + 1, rng.normal(size=(30, 3)) + 2
    labels = np.arange(20) % 2
    found = domain_divergence(rng.normal(size=(20, 5)), labels, a, b, measure=measure)
    assert found == -OF_SAMPLES[measure](a, b)


def test_ranks_sources_by_their_examples():
    rng = np.random.default_rng(3)
    target, labels = rng.normal(size=(30, 4)), np.arange(30) % 2
    beside = {
        name: {"base_features": target, "source_features": rng.normal(size=(40, 4)) + shift}
        for name, shift in (("far", 3.0), ("near", 0.2))
    }
    (found,) = rank(dict.fromkeys(beside, target), labels, ["domain_divergence"], supplies=beside)
    assert found.best == "near"


def test_a_source_whose_examples_nobody_knows():
    with pytest.raises(DataError, match="examples that the expert was trained on"):
        rank({"a": A}, Y, ["domain_divergence"], supplies={"a": {"base_features": A}})


def test_bad_features():
    with pytest.raises(DataError, match="2 columns of the target and 3 of the source"):
        domain_divergence(A, Y, A, np.hstack([B, B[:, :1]]))
    with pytest.raises(NumericalError, match="means are not zero"):
        domain_divergence(A, Y, A - A.mean(0), B, measure="mean_cosine")
    with pytest.raises(NumericalError, match="source_features: expected finite"):
        domain_divergence(A, Y, A, B * np.nan)
    with pytest.raises(DataError, match="two rows or more"):
        domain_divergence(A, Y, A, B[:1])
