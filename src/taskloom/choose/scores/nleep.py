"""N-LEEP: LEEP with the clusters of a Gaussian mixture in place of the source model's classes."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, checked
from taskloom.choose.pca import principal
from taskloom.choose.scores.leep import expected_prediction
from taskloom.errors import DataError, MissingExtra, NumericalError
from taskloom.registry import register


@register("score", paper="Li et al., Ranking neural checkpoints, CVPR 2021 (2011.11200), section 3.2")
def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    variance: Annotated[float, Field(gt=0, le=1)] = 0.8,
    ratio: Annotated[int, Field(ge=1)] = 5,
    covariance: Literal["full", "tied", "diag", "spherical"] = "full",
    logarithm: bool = True,
    seed: int = 0,
) -> float:
    """LEEP of a Gaussian mixture on principal components, for sources without a head; higher is better.

    Where paper, code and we differ: TencentARC/SFDA leaves out the logarithm (``logarithm=False``) and
    draws the mixture's start without a seed; google-research/stable_transfer leaves out the principal
    components. We follow the paper, seeded. The mixture is scikit-learn's.

    Parameters
    ----------
    features
        ``(N, D)`` of one source model on the target's examples.
    labels
        ``(N,)`` integers.
    variance
        Share of the variance that the principal components keep.
    ratio
        Components of the mixture for each class; there must be as many examples as components.
    covariance
        Of a component. ``"full"`` is what released code uses; its cost grows with the square of the
        principal components, that of ``"diag"`` with their number.
    logarithm
        As for ``leep``.
    seed
        Of the mixture's start.

    Returns
    -------
    Nats, at most 0. With one component it is minus the entropy of the labels; 0 if every component
    holds one class.

    Raises
    ------
    DataError
        Fewer examples than components; and see `taskloom.choose.checks.checked`.
    NumericalError
        The mixture cannot be fitted; and see `taskloom.choose.checks.checked`.
    MissingExtra
        scikit-learn is not installed.
    """
    matrix, indices, counts = checked("nleep", features, labels)
    components = ratio * len(counts)
    if components > len(matrix):
        raise DataError(
            f"nleep: expected as many examples as components, found {len(matrix)} examples and "
            f"{components} components, {ratio} for each of {len(counts)} classes",
            hint="Lower ratio or label more examples",
        )
    theta = _posteriors(_leading(matrix, variance), components, covariance, seed)
    return expected_prediction(theta, indices, counts, logarithm=logarithm)


def _leading(matrix: Floats, variance: float) -> Floats:
    """Return the scores on the fewest components that hold the share of the variance."""
    scores, variances = principal(matrix)
    shares = np.cumsum(variances) / variances.sum()
    enough = int(np.searchsorted(shares, variance * (1 - 1e-12))) + 1
    return scores[:, :enough]


def _posteriors(scores: Floats, components: int, covariance: str, seed: int) -> Floats:
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise MissingExtra("scikit-learn", "run", purpose="the score 'nleep'") from None
    mixture = GaussianMixture(components, covariance_type=covariance, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that have not converged after 100 rounds
        try:
            theta: Floats = mixture.fit(scores).predict_proba(scores)
        except ValueError as error:
            raise NumericalError(
                f"nleep: a mixture of {components} components cannot be fitted: "
                f"{str(error).split('.')[0]}",
                hint="Lower ratio, or use covariance diag",
            ) from error
    return theta
