"""Who may be handed over: a decision on validation numbers alone, that refuses negative transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from taskloom.errors import NumericalError, PlanError
from taskloom.evaluation.confusion import Labels
from taskloom.evaluation.interval import paired_difference


@dataclass(frozen=True)
class Paired:
    """Validation predictions on the same examples, for an interval of the difference.

    Parameters
    ----------
    labels
        Class numbers, (N,).
    predictions
        Model name to class numbers, (N,); models may be missing.
    """

    labels: Labels
    predictions: Mapping[str, Labels]
    metric: str = "accuracy"
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What the guard decided, and why in one sentence."""

    winner: str
    best_single: str
    best_single_value: float
    best_merge: str | None
    best_merge_value: float | None
    base_value: float
    refused: tuple[str, ...]
    gain: float | None  # best merge minus best single
    gain_low: float | None  # 95 % paired bootstrap interval, None without predictions
    gain_high: float | None
    reason: str


def guard(
    base: float,
    experts: Mapping[str, float],
    merges: Mapping[str, float],
    *,
    yardstick: str = "validation accuracy",
    base_name: str = "base",
    paired: Paired | None = None,
) -> Verdict:
    """Decide what may be handed over.

    The best single model is the expert with the highest value, or the base when no expert beats it. The
    best merge wins only with a higher value than that; a merge with a lower one is refused. Among equals
    the first listed is best, and a single model goes before a merge.

    Parameters
    ----------
    base, experts, merges
        Validation values, higher is better, of the base, of each expert and of each merge by name.
    yardstick
        What the values are, for the sentence.
    paired
        Predictions behind the values, to add an interval of best merge minus best single.

    Raises
    ------
    PlanError
        A name is used twice.
    NumericalError
        A value is NaN or infinite.

    Examples
    --------
    >>> guard(0.5, {"spam": 0.7}, {"ties": 0.65, "average": 0.6}).reason
    'spam wins: its validation accuracy is 0.7000, the best merge (ties) has 0.6500; ...'
    """
    names = [base_name, *experts, *merges]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PlanError(f"two models are called {twice!r}", hint="Give each model its own name")
    for name, value in [(base_name, base), *experts.items(), *merges.items()]:
        if not math.isfinite(value):
            raise NumericalError(f"the {yardstick} of {name!r} is {value}, expected a finite number")
    singles = {base_name: base, **experts}
    best_single = max(singles, key=singles.__getitem__)
    best_merge = max(merges, key=merges.__getitem__) if merges else None
    single_value = singles[best_single]
    merge_value = merges[best_merge] if best_merge is not None else None
    merge_wins = merge_value is not None and merge_value > single_value
    gain, low, high = _gain(best_merge, merge_value, best_single, single_value, paired)
    refused = tuple(name for name, value in merges.items() if value < single_value)
    return Verdict(
        winner=best_merge if merge_wins and best_merge is not None else best_single,
        best_single=best_single,
        best_single_value=single_value,
        best_merge=best_merge,
        best_merge_value=merge_value,
        base_value=base,
        refused=refused,
        gain=gain,
        gain_low=low,
        gain_high=high,
        reason=_reason(
            best_single, single_value, best_merge, merge_value, refused, (low, high), yardstick
        ),
    )


def _gain(
    merge: str | None, merge_value: float | None, single: str, single_value: float, paired: Paired | None
) -> tuple[float | None, float | None, float | None]:
    if merge is None or merge_value is None:
        return None, None, None
    gain = merge_value - single_value
    if paired is None or not {merge, single} <= set(paired.predictions):
        return gain, None, None
    _, low, high = paired_difference(
        paired.labels,
        paired.predictions[merge],
        paired.predictions[single],
        paired.metric,
        paired.seed,
    )
    return gain, low, high


def _reason(
    single: str,
    single_value: float,
    merge: str | None,
    merge_value: float | None,
    refused: tuple[str, ...],
    interval: tuple[float | None, float | None],
    yardstick: str,
) -> str:
    if merge is None or merge_value is None:
        return f"{single} wins: its {yardstick} is {single_value:.4f}, and there is no merge"
    low, high = interval
    sure = ""
    if low is not None and high is not None:
        sure = (
            f" (difference {merge_value - single_value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
        )
    if merge_value > single_value:
        return (
            f"{merge} wins: its {yardstick} is {merge_value:.4f}, "
            f"the best single model ({single}) has {single_value:.4f}{sure}"
        )
    if not refused:
        return (
            f"{single} wins: no merge beats its {yardstick} of {single_value:.4f}, "
            f"the best merge ({merge}) equals it{sure}"
        )
    return (
        f"{single} wins: its {yardstick} is {single_value:.4f}, the best merge ({merge}) has "
        f"{merge_value:.4f}{sure}; merges that lose to it are not handed over: {', '.join(refused)}"
    )
