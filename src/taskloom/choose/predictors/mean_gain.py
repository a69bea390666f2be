"""Mean gain: a source is as good for a new target as it was for others."""

from __future__ import annotations

from taskloom.choose.checks import Floats
from taskloom.choose.predictors.known import Known, mean_over_known
from taskloom.registry import register


@register("predictor")
def mean_gain(known: Known) -> Floats:
    """Mean relative gain of each source over the other targets: what every predictor has to beat.

    Nothing of the new target is looked at. Targets on which all sources gain more do not favour the
    sources that were tried on them: each target's mean over sources is taken away first.

    Returns
    -------
    ``(S,)``; NaN for a source that was tried on no other target.

    Examples
    --------
    >>> import numpy as np
    >>> change = np.array([[[0.3, 0.1], [0.1, np.nan]]])
    >>> known = Known(change, likeness=np.zeros(2), pivots=np.zeros(2))
    >>> mean_gain(known).round(6).tolist()
    [0.05, -0.1]
    """
    gain = mean_over_known(known.change, 0)
    return mean_over_known(gain - mean_over_known(gain, 0)[None, :], 1)
