"""Who wins among compositions and their rivals: a decision on held-out predictions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import NumericalError, PlanError
from taskloom.evaluation.interval import paired_error
from taskloom.evaluation.score import Score, score
from taskloom.runs.candidates import Candidate
from taskloom.runs.result import GuardRecord, MarginRecord
from taskloom.runs.targets import gain_interval
from taskloom.runs.verdict import mean_interval

Array = NDArray[Any]
#: ``"merge"``: a merge that nothing was fitted for, such as plain averaging; simpler kinds come first
Kind = Literal["base", "expert", "merge", "fine-tune", "composition"]
SIMPLER: tuple[Kind, ...] = ("base", "expert", "merge", "fine-tune", "composition")
Mode = Literal["strict", "warn"]
HeldOut = Literal["validation", "cross-validation"]


@dataclass(frozen=True)
class Judged:
    """Predictions of every model for the same held-out examples of one task.

    Attributes
    ----------
    task, metric
        Names.
    labels
        Class numbers, ``(N,)``.
    predictions
        Model -> class numbers, ``(N,)``.
    """

    task: str
    metric: str
    labels: Array
    predictions: Mapping[str, Array]


@dataclass(frozen=True)
class Margin:
    """By how much a composition wins, or loses where it is negative.

    Attributes
    ----------
    composition, rival
        Names.
    task
        Empty for the mean over all tasks.
    gain, low, high
        Composition minus rival on the same examples, with its 95 % paired interval.
    n
        Examples.
    """

    composition: str
    rival: str
    task: str
    gain: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Guarded:
    """What may be handed over, and why.

    Attributes
    ----------
    winner, kind
        Who is handed over, and what it is.
    mode
        ``"strict"`` hands over whoever wins; ``"warn"`` the best composition, whatever it loses to.
    split, folds
        What it was decided on; 0 folds on a validation split.
    composition
        The best of the compositions.
    best_expert
        The best of the experts; None without experts.
    values
        Model -> mean over tasks of its scores.
    scores
        Model -> its score on every task.
    margins
        The best composition against every other model but other compositions, by task and in the mean.
    refused
        Compositions with a lower mean than a rival.
    absent
        Rivals that were not tried -> why not.
    reason
        One sentence.
    """

    winner: str
    kind: Kind
    mode: Mode
    split: HeldOut
    folds: int
    composition: str
    best_expert: str | None
    values: Mapping[str, float]
    scores: Mapping[str, tuple[Score, ...]]
    margins: tuple[Margin, ...]
    refused: tuple[str, ...]
    reason: str
    absent: Mapping[str, str] = field(default_factory=dict)

    def margin(self, rival: str, task: str = "") -> Margin:
        """Return the margin over a rival, in the mean or on one task."""
        return next(m for m in self.margins if m.rival == rival and m.task == task)


def judge(
    judged: Sequence[Judged],
    kinds: Mapping[str, Kind],
    *,
    mode: Mode = "strict",
    split: HeldOut = "validation",
    folds: int = 0,
    seed: int = 0,
    absent: Mapping[str, str] | None = None,
    caution: str = "",
) -> Guarded:
    """Decide on held-out predictions who is handed over.

    The winner has the highest mean over tasks of their metrics; among equals the simpler kind wins
    (base, expert, merge, fine-tune, composition), then who is listed first. On cross-validated labels,
    which are few, the base stays where the winner's lead over it in that mean is within one standard
    error (Breiman et al. 1984, section 3.4.3). The best of many is flattered by the choice: its value
    decides here, and is no estimate of how good it is.

    Intervals of single tasks are paired bootstraps, for accuracy widened by the exact sign test (see
    `taskloom.runs.targets.gain_interval`); that of the mean adds tasks up as independent.

    Parameters
    ----------
    judged
        Tasks, at least one.
    kinds
        Model -> kind; one base, and a composition or more.
    mode, split, folds, absent
        See `Guarded`.
    seed
        Of the bootstraps.
    caution
        What a reader of the reason must know besides.

    Raises
    ------
    PlanError
        No task, no composition, not one base, or predictions that a model lacks.
    NumericalError
        A score that is not finite.
    """
    _check(judged, kinds)
    scores = {
        name: tuple(
            score(
                each.labels,
                each.predictions[name],
                metric=each.metric,
                split=split,
                seed=seed,
                model=name,
                task=each.task,
            )
            for each in judged
        )
        for name in kinds
    }
    values = {name: _mean([s.value for s in row]) for name, row in scores.items()}
    for name, value in values.items():
        if not np.isfinite(value):
            raise NumericalError(f"the mean score of {name!r} is {value}, expected a finite number")
    simple = sorted(kinds, key=lambda name: SIMPLER.index(kinds[name]))
    best = _best(simple, values)
    base = simple[0]
    composition = _best([n for n in simple if kinds[n] == "composition"], values)
    experts = [name for name in simple if kinds[name] == "expert"]
    rivals = [name for name in kinds if kinds[name] != "composition"]
    margins = leads(judged, composition, rivals, seed=seed)
    told = _Told(values, kinds, margins, composition, split, folds)
    winner, reason = best, told.wins(best, _best([n for n in simple if n != best], values))
    if split == "cross-validation" and winner != base:
        lead, error = _lead(judged, winner, base, seed)
        if lead <= error:
            reason = told.stays(base, winner, lead, error)
            winner = base
    best_rival = max(values[name] for name in rivals)
    if mode == "warn" and winner != composition:
        reason = f"{reason}; {composition} is handed over all the same, since the guard only warns"
        winner = composition
    for why, names in by_reason(absent or {}).items():
        reason = f"{reason}; {names} not tried: {why}"
    if caution:
        reason = f"{reason}; {caution}"
    return Guarded(
        winner=winner,
        kind=kinds[winner],
        mode=mode,
        split=split,
        folds=folds,
        composition=composition,
        best_expert=_best(experts, values) if experts else None,
        values=values,
        scores=scores,
        margins=margins,
        refused=tuple(n for n in kinds if kinds[n] == "composition" and values[n] < best_rival),
        reason=reason,
        absent=dict(absent or {}),
    )


def by_reason(absent: Mapping[str, str]) -> dict[str, str]:
    """Return why rivals are absent -> who, with the verb.

    >>> by_reason({"a": "it failed", "b": "no time", "c": "no time", "d": "no time"})
    {'it failed': 'a was', 'no time': 'b, c and d were'}
    """
    found: dict[str, list[str]] = {}
    for name, why in absent.items():
        found.setdefault(why, []).append(name)
    return {
        why: f"{names[0]} was" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} were"
        for why, names in found.items()
    }


def check_mode(mode: str) -> None:
    """Refuse what is no way to guard, before anything is fitted for it.

    Raises
    ------
    PlanError
        Neither ``"strict"`` nor ``"warn"``.
    """
    if mode not in get_args(Mode):
        raise PlanError(f"guard is {mode!r}", hint="Say 'strict' or 'warn'")


def _check(judged: Sequence[Judged], kinds: Mapping[str, Kind]) -> None:
    if not judged:
        raise PlanError("the guard needs one task or more, and there is none", hint="Name a task")
    given = list(kinds.values())
    if given.count("base") != 1 or "composition" not in given:
        raise PlanError(
            f"the guard holds compositions against one base, found {given.count('base')} and "
            f"{given.count('composition')} compositions",
            hint="Give one base, and a composition or more",
        )
    for each in judged:
        for name in kinds:
            if name not in each.predictions:
                raise PlanError(f"task {each.task!r}: {name!r} has predicted nothing to be judged by")


def _mean(values: Sequence[float]) -> float:
    """Return the mean, rounded so that equal sums are equal in whatever order they were added up."""
    return round(float(np.mean(values)), 12)


def _best(names: Sequence[str], values: Mapping[str, float]) -> str:
    """Return the first of those with the highest value."""
    return max(names, key=lambda name: values[name])


def leads(
    judged: Sequence[Judged], composition: str, rivals: Sequence[str], *, seed: int = 0
) -> tuple[Margin, ...]:
    """Return a composition's margins over rivals: each by task, then in the mean."""
    found: list[Margin] = []
    for rival in rivals:
        own = [_margin(each, composition, rival, seed) for each in judged]
        low, high = mean_interval([(m.gain, m.low, m.high) for m in own])
        mean = float(np.mean([m.gain for m in own]))
        found += [*own, Margin(composition, rival, "", mean, low, high, sum(m.n for m in own))]
    return tuple(found)


def _margin(judged: Judged, composition: str, rival: str, seed: int) -> Margin:
    ours, theirs = judged.predictions[composition], judged.predictions[rival]
    gain = gain_interval(judged.labels, ours, theirs, metric=judged.metric, seed=seed)
    return Margin(composition, rival, judged.task, *gain, len(judged.labels))


def with_leads(
    guard: GuardRecord, candidates: Sequence[Candidate], judged: Sequence[Judged]
) -> GuardRecord:
    """Return a run's verdict with the margins of its best merge over base, experts and average."""
    best = guard.best_merge
    if best is None:
        return guard
    rivals = [
        c.name
        for c in candidates
        if c.name != best
        and (c.kind != "merge" or (c.recipe is not None and c.recipe.method == "average"))
    ]
    found = leads(judged, best, rivals)
    return guard.model_copy(update={"margins": [MarginRecord(**asdict(each)) for each in found]})


def table_of(margins: Sequence[Margin | MarginRecord], how: str) -> str:
    """Return margins as a Markdown table under a line that says what they are and ``how`` measured."""
    lines = [
        f"| {m.rival} | {m.task or 'mean'} | {m.gain:+.4f} | {m.low:+.4f} to {m.high:+.4f} | {m.n} |"
        for m in margins
    ]
    return "\n".join(
        [
            f"{margins[0].composition} minus each rival on {how}, the same examples for both:",
            "",
            "| rival | task | difference | 95 % interval | n |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )


def _lead(judged: Sequence[Judged], first: str, second: str, seed: int) -> tuple[float, float]:
    """Return how much larger the mean score is, each task's by its metric, and its standard error.

    Tasks count as independent. The error of a share of right answers is the standard deviation of the
    differences by example over the root of their number; that of other metrics is bootstrapped.
    """
    gains, variances = [], []
    for each in judged:
        ours, theirs = each.predictions[first], each.predictions[second]
        if each.metric == "accuracy":
            difference = (ours == each.labels).astype(np.float64) - (theirs == each.labels)
            gain, error = float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))
        else:
            gain, error = paired_error(each.labels, ours, theirs, each.metric, seed)
        gains.append(gain)
        variances.append(error**2)
    return float(np.mean(gains)), float(np.sqrt(sum(variances))) / len(judged)


@dataclass(frozen=True)
class _Told:
    """Puts a decision into words."""

    values: Mapping[str, float]
    kinds: Mapping[str, Kind]
    margins: tuple[Margin, ...]
    composition: str
    split: HeldOut
    folds: int

    def wins(self, winner: str, second: str) -> str:
        """Say who wins, and what its lead over, or the composition's lag behind it, is."""
        other = second if winner == self.composition else self.composition
        return (
            f"{self._called(winner)} wins: its {self._yardstick()} is {self.values[winner]:.4f}, "
            f"{self._called(other)} has {self.values[other]:.4f}{self._sure(winner, other)}"
        )

    def stays(self, base: str, winner: str, lead: float, error: float) -> str:
        """Say why the base stays."""
        return (
            f"{base} stays: {self._called(winner)} has the best {self._yardstick()} "
            f"({self.values[winner]:.4f}, {base} {self.values[base]:.4f}), but its lead of {lead:.4f} "
            f"is within one standard error ({error:.4f})"
        )

    def _called(self, name: str) -> str:
        return f"the expert {name}" if self.kinds[name] == "expert" else name

    def _yardstick(self) -> str:
        if self.split == "validation":
            return "mean validation score"
        return f"mean score in {self.folds}-fold cross-validation"

    def _sure(self, winner: str, other: str) -> str:
        rival = other if winner == self.composition else winner
        found = next((m for m in self.margins if m.rival == rival and not m.task), None)
        if found is None:
            return ""
        chance = ", which may be chance" if found.low <= 0 <= found.high else ""
        return (
            f" ({self.composition} minus {rival} {found.gain:+.4f}, 95 % interval {found.low:+.4f} to "
            f"{found.high:+.4f}, n = {found.n}{chance})"
        )
