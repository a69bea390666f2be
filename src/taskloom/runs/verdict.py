"""What may be handed over, decided without the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.guard import guard
from taskloom.runs.candidates import Candidate
from taskloom.runs.result import GuardRecord


def mean_interval(scores: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values, each ``(value, low, high)`` of its own interval.

    Square-and-add (Zou and Donner 2008, eq. 4, for a sum): ``mean - sqrt(sum_t (value_t - low_t)^2) /
    T`` and likewise above. One value keeps its own interval, and shares of 0 or 1 keep a width. It
    takes the values for independent, which they are when the tasks have examples of their own; where
    tasks label the same inputs (the digits tasks do) it is somewhat too narrow.

    >>> low, high = mean_interval([(0.5, 0.4, 0.6), (0.5, 0.4, 0.6)])
    >>> round(low, 3), round(high, 3)
    (0.429, 0.571)
    """
    count = len(scores)
    mean = sum(value for value, _, _ in scores) / count
    below = math.sqrt(sum((value - low) ** 2 for value, low, _ in scores)) / count
    above = math.sqrt(sum((high - value) ** 2 for value, _, high in scores)) / count
    return mean - below, mean + above


def paired_lead(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """Return how many more of the same examples ``first`` gets right, and the standard error of that.

    >>> one = np.array([True] * 8 + [False] * 2)
    >>> lead, error = paired_lead(one, ~one)
    >>> lead, round(error, 2)
    (6.0, 2.53)
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    lead = float(difference.sum())
    return lead, float(np.sqrt(len(difference) * difference.var()))


def decide(
    scope: str,
    candidates: Sequence[Candidate],
    values: Mapping[str, float],
    *,
    yardstick: str,
    mode: Literal["strict", "warn"],
    right: Mapping[str, NDArray[np.bool_]] | None = None,
) -> GuardRecord:
    """Apply the guard to validation values by candidate name.

    In ``strict`` mode the winner is never a merge that loses to the best single model; in ``warn``
    mode the best merge wins all the same, and the reason says what it loses. A merge that is a rival
    counts as a single model here: it may win, but is never the best merge, and goes before its equals.

    With ``right`` (by candidate name, which of the N examples it gets right) a strict guard also keeps
    the base where the winner's lead over it is within one standard error: on a few labels the best of
    many leads by luck alone, and the base is the simpler model (the one-standard-error rule, Breiman
    et al. 1984, section 3.4.3).

    The winner is the best of many on one sample, so its value here is biased upwards; it decides and
    is never reported as the result. By design the pool's verdict uses the validation splits on which
    experts were stopped and sweeps were chosen; a target's uses its few labels, which nothing was
    tuned on. Gains are measured on the test split afterwards.
    """
    kinds = {each.name: "expert" if each.rival else each.kind for each in candidates}
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
    if mode == "strict" and right is not None and winner != "base":
        lead, error = paired_lead(right[winner], right["base"])
        if lead <= error:
            reason = (
                f"base stays: {winner} has the best {yardstick} ({values[winner]:.4f}), but its lead of "
                f"{lead:.0f} examples over the base is within one standard error ({error:.1f})"
            )
            winner = "base"
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
