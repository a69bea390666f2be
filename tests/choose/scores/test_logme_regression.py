"""LogME of numbers: cards A4."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.evidence import maximise_evidence, spectrum
from taskloom.choose.scores import logme, logme_regression
from taskloom.errors import DataError, NumericalError

F = np.array([[1, 0], [2, 0], [1, 1], [2, 1], [0, 2], [0, 3], [1, 3], [1, 2]], dtype=float)
Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def updates(f, t, steps=11):
    """The rule of the JMLR paper with explicit matrices, and the true log density at its end."""
    n, d = f.shape
    alpha = beta = 1.0
    for _ in range(steps):
        a = alpha * np.eye(d) + beta * f.T @ f
        m = beta * np.linalg.solve(a, f.T @ t)
        values = beta * np.linalg.eigvalsh(f.T @ f)
        gamma = (values / (alpha + values)).sum()
        m2, res2 = m @ m, ((t - f @ m) ** 2).sum()
        before, alpha, beta = alpha / beta, gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
        if abs(alpha / beta - before) / before <= 1e-3:
            break
    a = alpha * np.eye(d) + beta * f.T @ f
    evidence = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - np.linalg.slogdet(a)[1] / 2
    return (evidence - beta / 2 * res2 - alpha / 2 * m2 - n / 2 * np.log(2 * np.pi)) / n


def test_the_classes_of_the_card_as_numbers():
    assert logme_regression(F, (Y == 0) * 1.0) == pytest.approx(-0.791355, abs=1e-6)
    assert logme_regression(F, (Y == 1) * 1.0) == pytest.approx(-0.387661, abs=1e-6)
    assert logme_regression(F, np.eye(2)[Y]) == pytest.approx(logme(F, Y), abs=1e-12)
    assert logme_regression(F, Y) == pytest.approx(-0.387661, abs=1e-6), "integers as quantities"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 25), d=st.integers(1, 25))
def test_equals_explicit_matrices(seed, n, d):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    targets = features @ rng.normal(size=d) / np.sqrt(d) + rng.normal(size=n)
    assert logme_regression(features, targets) == pytest.approx(updates(features, targets), abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (4, 30), (9, 9)])
def test_the_spectrum_is_that_of_the_singular_values(n, d):
    rng = np.random.default_rng(n)
    features, targets = rng.normal(size=(n, d)), rng.normal(size=(n, 3))
    values, power = spectrum(features, targets)
    u, singular, _ = np.linalg.svd(features, full_matrices=False)
    np.testing.assert_allclose(values[::-1], singular**2, rtol=1e-9)
    np.testing.assert_allclose(power[::-1], (u.T @ targets) ** 2, atol=1e-9)


def test_directions_that_are_lost_count_like_what_lies_outside():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 3))
    wide = np.hstack([features, features @ rng.normal(size=(3, 4))])  # rank 3 of 7
    values, power = spectrum(wide, rng.normal(size=(30, 2)))
    assert (values[:4] == 0).all()
    assert (power[:4] == 0).all()
    targets = features @ [1.0, 2.0, 3.0] + rng.normal(size=30)
    assert logme_regression(wide, targets) == pytest.approx(updates(wide, targets), abs=1e-6)


@pytest.mark.parametrize("spread", [1e3, 1e6])
def test_ill_conditioned_features_give_the_same_evidence_as_the_svd(spread):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 8)) * np.geomspace(spread, 1, 8)
    targets = rng.normal(size=(60, 2)) + features[:, [7]]
    found = maximise_evidence(features, targets)
    wanted = [updates(features, column) for column in targets.T]
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_more_signal_scores_higher():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(100, 5))
    signal, noise = features @ np.ones(5), rng.normal(size=100)
    scaled = [(s * signal + noise) / np.sqrt(5 * s * s + 1) for s in (0.0, 0.5, 3.0)]
    first, second, third = (logme_regression(features, t) for t in scaled)
    assert first < second < third


@pytest.mark.parametrize(
    ("targets", "error", "said"),
    [
        (np.ones(8), DataError, "targets that differ, found 1 8 times in column 0"),
        ([[1, 2]] * 8, DataError, "in column 0"),
        (["a"] * 8, DataError, "expected numbers as targets"),
        ([True, False] * 4, DataError, "expected numbers as targets"),
        (np.arange(7), DataError, r"found \(8, 2\) and \(7,\)"),
        ([1, 2, np.nan, 4, 5, 6, 7, 8], NumericalError, "found nan in row 2"),
        (np.zeros((8, 0)), DataError, "each with a target"),
        (np.zeros((8, 1, 1)), DataError, "targets"),
    ],
)
def test_bad_targets(targets, error, said):
    with pytest.raises(error, match=f"^logme_regression: .*{said}"):
        logme_regression(F, np.asarray(targets))


def test_bad_features():
    with pytest.raises(NumericalError, match="the same row"):
        logme_regression(np.ones((8, 2)), np.arange(8))
    with pytest.raises(DataError, match="three examples or more"):
        logme_regression(F[:2], [0.0, 1.0])
