"""Ridge gain: several transferability scores as one, weighed by how they foresaw other targets."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.predictors.known import Known, mean_over_known
from taskloom.errors import DataError
from taskloom.registry import register


@register("predictor")
def ridge_gain(known: Known, *, penalty: Annotated[float, Field(gt=0)] = 1.0) -> Floats:
    """Predict gains by ridge regression on the scores, fitted on the other targets.

    Scores are comparable within a target alone, so each is standardised over the sources of a target,
    and gains are centred over them: what is fitted is an order, not a level. A score that a source
    lacks counts as average.

    Parameters
    ----------
    known
        With ``scores`` and ``scores_before``.
    penalty
        Of the squared weights, for each pair of source and target that is fitted: at 1, a single score
        is given half of its least-squares weight.

    Returns
    -------
    ``(S,)``

    Raises
    ------
    DataError
        No scores are given, or no gain is known.

    Examples
    --------
    >>> change = np.array([[[0.3], [0.2], [0.1]]])
    >>> before = np.array([[[3.0], [2.0], [1.0]]])
    >>> known = Known(change, np.zeros(3), np.zeros(1), np.array([[5.0, 9.0, 7.0]]), before)
    >>> ridge_gain(known).argmax()
    np.int64(1)
    """
    if known.scores is None or known.scores_before is None:
        raise DataError(
            "ridge_gain: expected scores of the new target and of the others, found none",
            hint="Measure some estimates first, or take a predictor that needs none",
        )
    gain = mean_over_known(known.change, 0)
    centred = gain - mean_over_known(gain, 0)[None, :]
    there = ~np.isnan(centred)
    if not there.any():
        raise DataError("ridge_gain: expected some known gain, found none", hint="Measure a matrix")
    inputs = _standardised(known.scores_before, there[None])[:, there].T  # (pairs, E)
    outputs = centred[there]
    gram = inputs.T @ inputs + penalty * len(outputs) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ outputs)
    scores = known.scores[:, :, None]
    own = _standardised(scores, np.ones((1, *scores.shape[1:]), dtype=bool))[:, :, 0]
    return np.asarray(own.T @ weights)


def _standardised(scores: Floats, there: Floats) -> Floats:
    """Return scores (E, S, P) of mean 0 and variance 1 over the sources; 0 where there is none."""
    found = np.where(there, scores, np.nan)
    apart = found - mean_over_known(found, 1)[:, None, :]
    scale = np.sqrt(mean_over_known(apart**2, 1))[:, None, :]
    unit = np.divide(apart, scale, out=np.zeros_like(apart), where=scale > 0)
    return np.where(np.isnan(unit), 0.0, unit)
