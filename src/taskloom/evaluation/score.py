"""A measured value that says how sure it is and what it was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taskloom import registry
from taskloom.evaluation.confusion import Labels
from taskloom.evaluation.interval import bootstrap, check_predictions, wilson

ScoredSplit = Literal["validation", "test", "cross-validation"]


@dataclass(frozen=True)
class Score:
    """One value of one metric for one model on one split of one task, with its 95 % interval."""

    model: str
    task: str
    split: ScoredSplit
    metric: str
    value: float
    low: float
    high: float
    interval: str  # "wilson" or "bootstrap"
    n: int
    seed: int


def score(
    labels: Labels,
    predictions: Labels,
    *,
    metric: str = "accuracy",
    split: ScoredSplit = "test",
    seed: int = 0,
    model: str = "",
    task: str = "",
) -> Score:
    """Score predictions: Wilson's interval for accuracy, the percentile bootstrap otherwise.

    Parameters
    ----------
    labels, predictions
        Class numbers, (N,) integers.
    seed
        Of the bootstrap; recorded.

    Raises
    ------
    DataError
        No labels, or shapes that differ.
    UnknownName
        No such metric.

    Examples
    --------
    >>> import numpy as np
    >>> s = score(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), model="base", task="coin")
    >>> s.value, round(s.low, 3), round(s.high, 3), s.interval, s.n
    (0.75, 0.301, 0.954, 'wilson', 4)
    """
    check_predictions(labels, predictions)
    value = float(registry.get("metric", metric).function(labels, predictions))
    if metric == "accuracy":
        kind = "wilson"
        low, high = wilson(int((labels == predictions).sum()), len(labels))
    else:
        kind = "bootstrap"
        low, high = bootstrap(labels, predictions, metric, seed=seed)
    return Score(model, task, split, metric, value, low, high, kind, len(labels), seed)
