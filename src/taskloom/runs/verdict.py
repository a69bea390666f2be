"""What may be handed over, decided without the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from taskloom.evaluation.guard import guard
from taskloom.runs.candidates import Candidate
from taskloom.runs.result import GuardRecord


def mean_interval(scores: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of independent shares, each (value, n).

    Normal approximation: the variance of the mean is ``sum_t p_t (1 - p_t) / n_t / T^2``. Clipped to
    [0, 1]. For metrics other than accuracy it is a rough guide.

    >>> low, high = mean_interval([(0.5, 100), (0.5, 100)])
    >>> round(low, 3), round(high, 3)
    (0.431, 0.569)
    """
    count = len(scores)
    mean = sum(value for value, _ in scores) / count
    variance = sum(max(value * (1 - value), 0.0) / n for value, n in scores) / count**2
    margin = 1.959963984540054 * math.sqrt(variance)
    return max(0.0, mean - margin), min(1.0, mean + margin)


def decide(
    scope: str,
    candidates: Sequence[Candidate],
    values: Mapping[str, float],
    *,
    yardstick: str,
    mode: Literal["strict", "warn"],
) -> GuardRecord:
    """Apply the guard to validation values by candidate name.

    In ``strict`` mode the winner is never a merge that loses to the best single model; in ``warn``
    mode the best merge wins all the same, and the reason says what it loses.
    """
    kinds = {candidate.name: candidate.kind for candidate in candidates}
    verdict = guard(
        values["base"],
        {name: values[name] for name, kind in kinds.items() if kind == "expert"},
        {name: values[name] for name, kind in kinds.items() if kind == "merge"},
        yardstick=yardstick,
    )
    winner, reason = verdict.winner, verdict.reason
    if mode == "warn" and verdict.best_merge is not None and verdict.best_merge in verdict.refused:
        winner = verdict.best_merge
        reason = f"{reason} The plan says guard: warn, so the merge is handed over all the same."
    return GuardRecord(
        scope=scope,
        winner=winner,
        best_merge=verdict.best_merge,
        best_single=verdict.best_single,
        best_merge_value=None if verdict.best_merge is None else values[verdict.best_merge],
        best_single_value=values[verdict.best_single],
        base_value=values["base"],
        yardstick=yardstick,
        refused=list(verdict.refused),
        reason=reason,
    )
