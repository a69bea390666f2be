"""A yardstick without labels: how much a model's predictions say about its inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SAMPLES = 2000


def surety(chances: Array) -> float:
    """Return the mutual information of inputs and predictions, as a share of its largest value.

    ``(H(mean p) - mean H(p)) / log C``: high where each prediction is sure and they differ from one
    another (Bridle, Heading and MacKay, NeurIPS 1991; the information maximisation of SHOT, Liang et
    al., ICML 2020, equation 3). The entropy of single predictions alone, which AdaMerging minimises, is
    best for a model that calls everything the same; this is 0 there. It is no accuracy: a model can be
    sure and wrong.

    Parameters
    ----------
    chances
        Class probabilities, (N, C), C >= 2.

    Examples
    --------
    >>> sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> round(surety(sure), 6), surety(np.array([[1.0, 0.0], [1.0, 0.0]]))
    (1.0, 0.0)
    """
    return float(_surety(chances[None])[0])


def surety_interval(chances: Array, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval over inputs."""
    low, high = np.percentile(_resampled([chances], seed)[0], [2.5, 97.5])
    return float(low), float(high)


def surety_lead(first: Array, second: Array, *, seed: int = 0) -> tuple[float, float, float]:
    """Return the first's surety minus the second's on the same inputs, with its paired interval."""
    one, two = _resampled([first, second], seed)
    low, high = np.percentile(one - two, [2.5, 97.5])
    return surety(first) - surety(second), float(low), float(high)


def _resampled(several: list[Array], seed: int) -> list[Array]:
    rows = np.random.default_rng(seed).integers(len(several[0]), size=(SAMPLES, len(several[0])))
    return [_surety(chances[rows]) for chances in several]


def _surety(chances: Array) -> Array:
    """Return one value for each of the samples (S, N, C)."""
    mean = chances.mean(1)
    found: Array = (_entropy(mean) - _entropy(chances).mean(1)) / np.log(chances.shape[-1])
    return np.maximum(found, 0.0)


def _entropy(chances: Array) -> Array:
    """Return the entropy over the last axis, 0 log 0 being 0."""
    safe = np.where(chances > 0, chances, 1.0)
    found: Array = -(chances * np.log(safe)).sum(-1)
    return found
