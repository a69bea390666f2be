"""``taskloom.edit``: add, forget or infer a task by arithmetic, and say what that changed.

The scale is given, or chosen on validation; then the test splits are opened once, for the base and the
edited model, and every change is told with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.score import Score, score
from taskloom.evaluation.task import get_task
from taskloom.merging.api import merge_files
from taskloom.merging.recipe import Recipe
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs.candidates import Candidate, merged
from taskloom.runs.desk import Desk, Sources, by_name_or_order, open_desk
from taskloom.runs.plan import Limits
from taskloom.runs.targets import gain_interval
from taskloom.store.atomic import refuse_existing
from taskloom.store.pool import Pool, open_pool

Kind = Literal["add", "negate", "analogy"]
#: what to do -> the merging method that does it
METHODS: dict[Kind, str] = {
    "add": "task_arithmetic",
    "negate": "task_negation",
    "analogy": "task_analogy",
}
#: what a scale is chosen from: 0.05, 0.1, ..., 1
SCALES = tuple(round(0.05 * step, 2) for step in range(1, 21))


@dataclass(frozen=True)
class Tried:
    """One scale on validation.

    Attributes
    ----------
    scale
        Of the task vectors.
    scores
        Of every task, targets first.
    allowed
        negate: whether every control task kept its share of the base's score; else True.
    chosen
        Whether this one was taken.
    """

    scale: float
    scores: tuple[Score, ...]
    allowed: bool
    chosen: bool


@dataclass(frozen=True)
class Change:
    """What the edit did to one task, on its test split.

    Attributes
    ----------
    task, role
        Which, and whether it is a target or a control.
    before, after
        Scores of the base and of the edited model.
    gain, low, high
        ``after - before`` on the same examples, with its 95 % interval.
    """

    task: str
    role: Literal["target", "control"]
    before: Score
    after: Score
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Edit:
    """What was done and what came of it.

    Attributes
    ----------
    kind, method, experts
        What was done with whom, in order.
    scale
        Of the task vectors.
    chosen
        ``"given"`` or ``"on validation"``.
    tried
        Every scale that was tried; empty if it was given.
    changes
        Of every task, targets first.
    sentence
        The same in words.
    path
        Where the edited model was written, if it was.
    """

    kind: Kind
    method: str
    experts: tuple[str, ...]
    scale: float
    chosen: Literal["given", "on validation"]
    tried: tuple[Tried, ...]
    changes: tuple[Change, ...]
    sentence: str
    path: Path | str | None = None


def edit(
    kind: Kind,
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    controls: Sequence[str] = (),
    scale: float | None = None,
    scales: Sequence[float] | None = None,
    keep: float = 0.95,
    output: str | Path | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Edit:
    """Edit a base by task arithmetic (Ilharco et al., ICLR 2023), and report what that changed.

    Heads are fitted on the base's features, one per task, so that a change is one of the encoder.

    Parameters
    ----------
    kind
        ``"add"`` the experts' task vectors, to learn their tasks; ``"negate"`` them, to forget; or the
        ``"analogy"`` of three experts, A is to B as C is to the task.
    tasks
        What is to be learned, forgotten or inferred.
    base
        Directory or hub id the experts were tuned from.
    experts
        Directories, hub ids or adapters of one base, in order or by name.
    controls
        Tasks that should stay as they are; they are reported beside the others.
    scale
        Of the task vectors; chosen on validation if None.
    scales
        What it is chosen from; 0.05, 0.1, ..., 1 if None. ``add`` and ``analogy`` take the highest mean
        over ``tasks``, of equals the smallest scale; ``negate`` takes the largest that leaves every
        control task ``keep`` of the base's score, as section 3 of the paper does.
    keep
        Share of the base's validation score that control tasks keep.
    output
        Directory to write the edited model to.
    overwrite
        Replace an existing output.
    limits
        Most examples of each split; the plan's defaults if None.

    Raises
    ------
    PlanError
        No tasks, one that is named twice, numbers out of range, no control for choosing how much to
        forget, or no scale that keeps the controls.
    UnknownName, DataError, CheckpointError, OutputError
        A name that is not registered, data or weights that do not fit, an output that exists.
    """
    targets, others = ([get_task(t).name for t in part] for part in (tasks, controls))
    grid = SCALES if scales is None else tuple(scales)
    _check(kind, targets, others, scale, grid, keep)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    desk = open_desk(base, seed=seed, progress=progress)
    sources, names = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=names)
    numbers = [float(scale)] if scale is not None else sorted(set(grid))
    candidates = [_candidate(pool, kind, number) for number in numbers]
    loaded = [desk.load(task, limits or Limits()) for task in (*tasks, *controls)]
    heads = {data.task.name: desk.head(data) for data in loaded}
    tried: tuple[Tried, ...] = ()
    if scale is None:
        tried = _try(kind, desk, numbers, candidates, loaded, heads, len(targets), keep)
    best = next((k for k, each in enumerate(tried) if each.chosen), 0)
    number, candidate = numbers[best], candidates[best]
    changes = _changes(desk, candidate, loaded, heads, len(targets))
    where: Path | str | None = None
    if output is not None:
        where = merge_files(
            desk.reader.encoder.directory,
            {expert.name: expert for expert in pool.experts},
            METHODS[kind],
            output,
            overwrite=overwrite,
            progress=progress,
            scale=number,
        ).path
    return Edit(
        kind=kind,
        method=METHODS[kind],
        experts=pool.names,
        scale=number,
        chosen="given" if scale is not None else "on validation",
        tried=tried,
        changes=changes,
        sentence=sentence(kind, number, changes),
        path=where,
    )


def _check(
    kind: str,
    targets: Sequence[str],
    controls: Sequence[str],
    scale: float | None,
    scales: Sequence[float],
    keep: float,
) -> None:
    if kind not in METHODS:
        raise PlanError(f"there is no edit {kind!r}", hint=f"Take {', '.join(METHODS)}")
    if not targets:
        raise PlanError("an edit has one task or more, and there is none", hint="Name a task")
    both = [*targets, *controls]
    for name in both:
        if both.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once, as one thing")
    numbers = [scale] if scale is not None else list(scales)
    for number in numbers:
        if not 0 <= number < float("inf"):
            raise PlanError(f"the scale {number!r} is not a number from 0", hint="Give 0.3, or 1")
    if not numbers:
        raise PlanError("there is no scale to choose from", hint="Give one or more")
    if not 0 < keep <= 1:
        raise PlanError(f"keep is {keep!r}, where a share above 0 and up to 1 is needed")
    if kind == "negate" and scale is None and not controls:
        raise PlanError(
            "how much can be forgotten is chosen by what control tasks keep, and there are none",
            hint="Name a control task, or give the scale",
        )


def _candidate(pool: Pool, kind: Kind, scale: float) -> Candidate:
    name = f"{kind}({scale:g})"
    return merged(pool, Recipe.of(METHODS[kind], scale=scale), name=name, title=name)


def _scores(
    desk: Desk,
    candidates: Sequence[Candidate],
    loaded: Sequence[TaskData],
    heads: Mapping[str, Head],
) -> dict[str, tuple[Score, ...]]:
    """Return the validation scores of every candidate, in the order of the tasks."""
    features = desk.reader.read(candidates, loaded, "validation")
    return {
        candidate.name: tuple(
            score(
                data.validation.labels,
                heads[data.task.name].predict(features[candidate.name, data.task.name]),
                metric=data.task.metric,
                split="validation",
                seed=desk.seed,
                model=candidate.name,
                task=data.task.name,
            )
            for data in loaded
        )
        for candidate in candidates
    }


def _try(
    kind: Kind,
    desk: Desk,
    numbers: Sequence[float],
    candidates: Sequence[Candidate],
    loaded: Sequence[TaskData],
    heads: Mapping[str, Head],
    targets: int,
    keep: float,
) -> tuple[Tried, ...]:
    found = _scores(desk, [desk.base, *candidates], loaded, heads)
    start = [s.value for s in found[desk.base.name]]
    scores = [found[candidate.name] for candidate in candidates]
    if kind == "negate":
        floors = [keep * value for value in start[targets:]]
        allowed = [
            all(s.value >= floor for s, floor in zip(each[targets:], floors, strict=True))
            for each in scores
        ]
        if not any(allowed):
            raise PlanError(
                f"no scale from {numbers[0]:g} to {numbers[-1]:g} leaves every control task {keep:.0%} "
                "of the base's validation score",
                hint="Try smaller scales, let the controls lose more (keep), or give the scale",
            )
        best = max(k for k, fine in enumerate(allowed) if fine)
    else:
        allowed = [True] * len(scores)
        means = [sum(s.value for s in each[:targets]) for each in scores]
        best = means.index(max(means))  # the first, hence smallest, of equals
    return tuple(
        Tried(number, each, fine, k == best)
        for k, (number, each, fine) in enumerate(zip(numbers, scores, allowed, strict=True))
    )


def _changes(
    desk: Desk,
    candidate: Candidate,
    loaded: Sequence[TaskData],
    heads: Mapping[str, Head],
    targets: int,
) -> tuple[Change, ...]:
    """Open the test splits: score the base and the edited model."""
    features = desk.reader.read([desk.base, candidate], loaded, "test")
    changes = []
    for number, data in enumerate(loaded):
        name, metric, labels = data.task.name, data.task.metric, desk.reader.test_labels(data)
        predicted = [heads[name].predict(features[c.name, name]) for c in (desk.base, candidate)]
        before, after = (
            score(labels, each, metric=metric, seed=desk.seed, model=model.name, task=name)
            for each, model in zip(predicted, (desk.base, candidate), strict=True)
        )
        gain, low, high = gain_interval(
            labels, predicted[1], predicted[0], metric=metric, seed=desk.seed
        )
        role: Any = "target" if number < targets else "control"
        changes.append(Change(name, role, before, after, gain, low, high))
    return tuple(changes)


def sentence(kind: Kind, scale: float, changes: Sequence[Change]) -> str:
    """Say what an edit did to its tasks, and to the control tasks."""
    doing = {"add": "Adding", "negate": "Forgetting", "analogy": "The analogy"}[kind]
    told = [_told(change) for change in changes if change.role == "target"]
    held = [_told(change) for change in changes if change.role == "control"]
    beside = f"; beside it {', '.join(held)}" if held else ""
    return f"{doing} with scale {scale:g}: {', '.join(told)}{beside}."


def _told(change: Change) -> str:
    moved = "rises" if change.low > 0 else "falls" if change.high < 0 else "stays within chance"
    return (
        f"{change.task} {moved} from {change.before.value * 100:.1f} to "
        f"{change.after.value * 100:.1f} ({change.gain * 100:+.1f} points, 95 % interval "
        f"{change.low * 100:+.1f} to {change.high * 100:+.1f}, n = {change.after.n})"
    )
