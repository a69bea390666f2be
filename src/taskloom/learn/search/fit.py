"""A search as a fit: candidates are merged and scored on a problem, the trace becomes the fit's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from taskloom import __version__
from taskloom.errors import PlanError
from taskloom.learn.fitted import Fitted, Step
from taskloom.learn.probe import Weights
from taskloom.learn.problem import Problem
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.drive import Candidate, Found, Proposer, Trial, search
from taskloom.learn.search.front import on_front
from taskloom.learn.search.journal import Journal
from taskloom.learn.search.scorer import Scorer, check_preference, context_of, preferred

#: above this share of one class among the predictions of a task they have collapsed
COLLAPSED = 0.99


def fit_by_search(
    on: Problem,
    proposer: Proposer,
    method: str,
    *,
    label: str,
    scorer: Scorer,
    budget: Budget,
    prefer: Mapping[str, float],
    weights: Callable[[Candidate], Weights] | None = None,
    penalty: Callable[[Candidate], float] | None = None,
    said: Mapping[str, str] | None = None,
) -> Fitted:
    """Search, and return what was chosen as a recipe.

    Parameters
    ----------
    method
        The merging method whose options the candidates are.
    label
        Name of the fit.
    prefer
        Weight of each task in the loss; empty: all alike.
    weights
        Merges a candidate; None: the problem's own way (`Problem.merge`).
    penalty
        Added to the loss.
    said
        What the fit says of itself beside what every search does.

    Raises
    ------
    PlanError
        A preference for what is no task, no way to merge, a budget that is too small.
    NumericalError
        No candidate had a finite loss.
    OutputError, IntegrityError
        As `Journal`.
    """
    wanted = check_preference(prefer, on.tasks)
    made = weights or merging(on, method, label)

    def loss(candidate: Candidate, losses: Mapping[str, float]) -> float:
        extra = 0.0 if penalty is None else penalty(candidate)
        return preferred(wanted, losses) + extra

    context = context_of(
        on,
        method=method,
        objective=scorer.described,
        own=dict(on.own) if scorer.compares else {},
        versions=[__version__, str(torch.__version__)],
    )
    with Journal(on.journal) as journal:
        found = search(
            proposer,
            lambda candidate: scorer(lambda: made(candidate)),
            loss,
            budget=budget,
            context=context,
            journal=journal,
            label=label,
            progress=on.progress,
        )
    return Fitted(
        method,
        dict(found.chosen.candidate),
        trace=steps(found),
        said={
            **_said(on, found, scorer, budget),
            "preference": ", ".join(f"{task} {weight:.3g}" for task, weight in wanted.items()),
            **(said or {}),
        },
    )


def merging(on: Problem, method: str, label: str) -> Callable[[Candidate], Weights]:
    """Return the problem's way to merge with one method.

    Raises
    ------
    PlanError
        It has none.
    """
    merge = on.merge
    if merge is None:
        raise PlanError(
            f"{label} tries merges, and the problem does not say how to merge",
            hint="Give Problem(merge=...), a function of a method's name and options",
        )
    return lambda candidate: merge(method, candidate)


def steps(found: Found) -> tuple[Step, ...]:
    """Return a search as the trace of a fit.

    Values of a step: every number of the candidate under its name, ``loss TASK``, ``one class TASK``
    (the share of the commonest prediction), ``best`` (the lowest loss so far) and, of several tasks,
    ``front`` (1 where no candidate is as low on every task and lower on one).
    """
    marks = on_front([list(t.measured.losses.values()) for t in found.trials])
    rows, seconds, best = [], 0.0, math.inf
    for trial, mark in zip(found.trials, marks, strict=True):
        seconds += trial.measured.seconds
        best = trial.loss if trial.loss < best else best
        values = {**flatten(trial.candidate), **_by_task(trial), "best": best}
        if len(trial.measured.losses) > 1:
            values["front"] = float(mark)
        rows.append(Step(trial.number + 1, trial.loss, seconds, values))
    return tuple(rows)


def flatten(candidate: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Return the numbers of nested options under dotted names.

    >>> flatten({"scale": 0.5, "weights": {"a": 1.0}, "scope": "model"})
    {'scale': 0.5, 'weights.a': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in candidate.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{name}"] = float(value)
    return found


def _by_task(trial: Trial) -> dict[str, float]:
    losses = {f"loss {task}": loss for task, loss in trial.measured.losses.items()}
    return losses | {f"one class {task}": share for task, share in trial.measured.shares.items()}


def _said(on: Problem, found: Found, scorer: Scorer, budget: Budget) -> dict[str, str]:
    total = sum(trial.measured.seconds for trial in found.trials)
    lost = [trial for trial in found.trials if not math.isfinite(trial.loss)]
    told = {
        "objective": scorer.described,
        "labels": "used" if scorer.labels_used else "not used",
        "transductive": "yes" if on.split == "test" else "no",
        "examples": ", ".join(f"{task} {each.count}" for task, each in on.batches.items()),
        "evaluations": f"{len(found.trials)}, {found.fresh} of them measured now",
        "budget": _limits(budget),
        "ended": "there was nothing more to try" if found.exhausted else "the budget was spent",
        "seconds": f"{total:.3f}",
        "seed": str(on.seed),
        "loss": f"{found.chosen.loss:.6g}",
    }
    if lost:
        told["not finite"] = f"{len(lost)} of {len(found.trials)} candidates"
    shares = found.chosen.measured.shares
    collapsed = [task for task, share in shares.items() if share >= COLLAPSED]
    if collapsed:
        told["collapsed"] = f"nearly all predictions are one class: {', '.join(collapsed)}"
    return told


def _limits(budget: Budget) -> str:
    parts = [] if budget.evaluations is None else [f"{budget.evaluations} evaluations"]
    return " or ".join(parts + ([] if budget.minutes is None else [f"{budget.minutes:g} minutes"]))
