"""The loop of every search: ask, measure or remember, tell, until the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from taskloom.errors import NumericalError
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.journal import Journal, Measured, key_of
from taskloom.progress import Progress, silent

#: options of a merging method, JSON types only
Candidate = Mapping[str, Any]
#: what a proposer is told of a candidate without a finite loss
WORST = 1e9


class Proposer(Protocol):
    """Names candidates one by one; the same ones whenever it is told the same losses."""

    def ask(self) -> Candidate | None:
        """Return the next candidate; None: there is nothing more to try."""

    def tell(self, loss: float) -> None:
        """Hear the loss of the candidate that was asked for last; lower is better."""

    def recommend(self) -> Candidate | None:
        """Return what it would take of the candidates so far; None: the best of them."""


@dataclass(frozen=True)
class Trial:
    """One candidate and what it came to.

    Attributes
    ----------
    number
        From 0, in the order of the search.
    candidate
        Options of the merging method.
    loss
        What the search makes smaller; NaN if it is not finite.
    measured
        Losses by task, and seconds.
    """

    number: int
    candidate: Candidate
    loss: float
    measured: Measured


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes
    ----------
    trials
        In order.
    chosen
        The trial that the proposer takes, or else the best; of equals, the first.
    fresh
        How many trials were measured now; the others were in the journal or had come up before.
    exhausted
        Whether there was nothing more to try before the budget was spent.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    fresh: int
    exhausted: bool


def search(
    proposer: Proposer,
    measure: Callable[[Candidate], Measured],
    loss: Callable[[Candidate, Mapping[str, float]], float],
    *,
    budget: Budget,
    context: Any = None,
    journal: Journal | None = None,
    label: str = "search",
    progress: Progress = silent,
) -> Found:
    """Measure what a proposer asks for until the budget is spent or nothing is left.

    A candidate whose loss is not finite counts as worse than any other, and the search goes on.

    Parameters
    ----------
    measure
        Merges and runs a candidate.
    loss
        (candidate, losses by task) -> what is made smaller. It is no part of what is kept, so other
        weights of the tasks need no new evaluation.
    budget
        Never exceeded by a whole evaluation.
    context
        JSON-ready: all else that decides what ``measure`` returns (models, examples, method).
    journal
        Open; where measurements are kept. None: in memory.
    label
        For messages and progress.
    progress
        Told how many evaluations are done.

    Raises
    ------
    PlanError
        The first evaluation took longer than the budget.
    NumericalError
        No candidate had a finite loss.
    """
    kept = Journal() if journal is None else journal
    trials: list[Trial] = []
    fresh, seconds, longest, exhausted = 0, 0.0, 0.0, False
    while not budget.spent(len(trials), seconds, longest):
        candidate = proposer.ask()
        if candidate is None:
            exhausted = True
            break
        key = key_of(context, candidate)
        measured = kept.get(key)
        if measured is None:
            measured = measure(candidate)
            kept.put(key, candidate, measured)
            fresh += 1
        if not trials:
            budget.check_first(measured.seconds)
        value = loss(candidate, measured.losses)
        trials.append(Trial(len(trials), candidate, value, measured))
        seconds, longest = seconds + measured.seconds, max(longest, measured.seconds)
        proposer.tell(value if math.isfinite(value) else WORST)
        progress(label, len(trials), budget.evaluations)
    best = _best(trials)
    if not math.isfinite(best.loss):
        raise NumericalError(
            f"{label}: none of {len(trials)} candidates has a finite loss, the first being {_say(best)}",
            hint="Check the weights, or search nearer to the base",
        )
    taken = proposer.recommend()
    chosen = next((trial for trial in trials if trial.candidate == taken), best)
    return Found(tuple(trials), chosen, fresh, exhausted)


def _best(trials: list[Trial]) -> Trial:
    return min(trials, key=lambda t: (not math.isfinite(t.loss), t.loss if t.loss == t.loss else 0.0))


def _say(trial: Trial) -> str:
    where = ", ".join(task for task, loss in trial.measured.losses.items() if not math.isfinite(loss))
    return f"{dict(trial.candidate)} (task {where})" if where else f"{dict(trial.candidate)}"
