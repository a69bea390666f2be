"""``taskloom.fit``: let a method fill numbers into a recipe, and hold the result against its rivals.

What is fitted sees training inputs (test inputs only if that is asked for by name); the guard sees the
validation splits, or folds of few labels. Test splits stay sealed otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.learn.fitted import FitStopped, Fitted
from taskloom.progress import Progress, silent
from taskloom.registry import Entry, get
from taskloom.runs.desk import Sources
from taskloom.runs.fit_front import axes_of
from taskloom.runs.guarding import Contest, guard_composition, tell
from taskloom.runs.judging import Guarded, Mode, check_mode
from taskloom.runs.opening import FITTED, Opened, Outputs, Split, open_fit, task_names
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.seen import Model, Seen
from taskloom.runs.soup import Tasted, tasted
from taskloom.runs.trace import save_trace, save_trace_picture
from taskloom.runs.trying import Merges, write_recipe
from taskloom.store.atomic import write_json
from taskloom.store.cache import cache_root, canonical_digest


@dataclass(frozen=True)
class FitReport:
    """What was fitted, and how it stands on examples it was not fitted on.

    Attributes
    ----------
    fitted
        The recipe with its numbers, the trace, and where it comes from.
    tasks, experts
        Names.
    scored
        Model -> its held-out scores: ``base``, every expert, ``average``, ``fine-tune``, ``fitted``.
    verdict
        Which of them is handed over and why, and by how much the result wins or loses.
    path, trace, picture
        What was written, if it was. ``path`` has the verdict's winner.
    """

    fitted: Fitted
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    scored: Mapping[str, Tasted]
    verdict: Guarded
    path: Path | str | None = None
    trace: Path | None = None
    picture: Path | None = None


def fit(
    method: str,
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    options: Mapping[str, Any] | None = None,
    own: Mapping[str, str] | None = None,
    output: str | Path | None = None,
    trace: str | Path | None = None,
    picture: str | Path | None = None,
    x: str | None = None,
    y: str | None = None,
    preference: Mapping[str, float] | None = None,
    journal: str | Path | None = None,
    examples: int = 256,
    labels: int | Mapping[str, int] | None = None,
    batch_size: int = 16,
    split: Split = "train",
    transductive: bool = False,
    guard: Mode = "warn",
    tune: Mapping[str, Any] | None = None,
    tuned: bool = True,
    overwrite: bool = False,
    limits: Limits | Mapping[str, Limits] | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> FitReport:
    """Fit the numbers of a recipe on examples of tasks, guard it, and write who wins.

    Heads are fitted on the base's features, one per task, so that every model is run under the same.
    The result is held against the base, every expert, their average and the base fine-tuned on the same
    labels: on validation, which nothing was fitted on, or, with fewer than 20 labels a class on average,
    by stratified cross-validation, for which heads, result and fine-tune are made anew on the other
    folds each time. An interrupted fit goes on where it was when it is called again.

    Parameters
    ----------
    method
        A name that ``taskloom methods fit`` lists.
    tasks
        Registered tasks, or paths of annotations: what is fitted on.
    base
        Directory or hub id the experts were tuned from.
    experts
        Directories, hub ids or adapters of one base, in order or by name.
    options
        Of the method.
    own
        Task -> name of the expert that was trained on it; by default the expert of the task's name.
    output
        Directory to write the model to.
    trace
        ``.json`` or ``.csv`` file for the trace.
    picture
        PNG or SVG file of the loss and the coefficients by step; of a search, of its front as well.
    x, y
        Tasks that the front is drawn over; the first two if not named.
    preference
        Weight of each task in the loss (option ``prefer``); 0 for those that are not named.
    journal
        File in which methods that search keep what they measured, so that an interrupted fit is
        resumed by the same call; by default one in the cache that belongs to base, experts, tasks,
        method, ``own`` and seed.
    examples
        Most examples of a task that are fitted on, drawn with ``seed``.
    labels
        Labelled examples that there are of each task, training and validation together, for all tasks or
        by task; what the limits say if None.
    batch_size
        Examples of a task per forward pass.
    split
        ``"test"`` fits on test inputs, without their labels; it needs ``transductive=True``.
    transductive
        The result may have seen the inputs it will be scored on.
    guard
        ``"strict"`` writes whoever wins, be it a single expert or the fine-tune; ``"warn"`` writes the
        result, and says what it loses to.
    tune, tuned
        Options of the fine-tune, as of ``taskloom.train``; 5 passes and 30 steps at least by default.
        Without ``tuned`` there is no fine-tune, and the verdict says so.
    overwrite
        Replace an existing output.
    limits
        Most examples of each split, for all tasks or by task; the plan's defaults if None.
    evaluation
        How models are run; the plan's defaults if None.

    Raises
    ------
    FitStopped
        A loss that is not finite. The last good numbers are in the error, and in
        ``OUTPUT.stopped.json`` (or ``TRACE.stopped.json``) if either was named.
    PlanError, UnknownName, DataError, CheckpointError, NumericalError, OutputError
        Names, options, data or weights that do not fit, labels that are too few for folds or are not
        those of an expert's head, or an output that exists.
    """
    entry = get("fit", method)
    given = entry.validate({**(options or {}), **({"prefer": preference} if preference else {})})
    check_mode(guard)
    outputs = Outputs(output, trace, picture, overwrite, x, y)
    _check_axes(entry, tasks, x, y)
    opened = open_fit(
        tasks,
        base,
        experts,
        outputs=outputs,
        taken=(FITTED,),
        examples=examples,
        labels=labels,
        split=split,
        transductive=transductive,
        limits=limits,
        evaluation=evaluation,
        seed=seed,
        progress=progress,
    )
    pool = opened.pool
    kept = Path(journal) if journal is not None else _journal(opened, method, own, seed)
    merges = Merges(pool)

    def run(seen: Seen) -> Fitted:
        file = kept.with_name(f"{kept.stem}.fold{seen.number}{kept.suffix}") if seen.number else kept
        on = replace(seen.problem(own, batch_size=batch_size), merge=merges, journal=file)
        found: Fitted = entry.function(on, **given)
        return found

    try:
        fitted = run(opened.final)
        save_way(fitted, outputs)

        def compose(seen: Seen) -> Model:
            numbers = run(seen) if seen.number else fitted
            return seen.model(merges(numbers.method, numbers.options))

        contest = guard_composition(
            opened.dealt, {FITTED: compose}, mode=guard, tune=tune, tuned=tuned, progress=progress
        )
    except FitStopped as error:
        raise _kept(error, output or trace) from None

    def write(place: str | Path) -> Path | str:
        where = write_recipe(
            pool, fitted.method, fitted.options, place, overwrite=overwrite, progress=progress
        )
        if Path(where).is_dir():
            tell(where, contest, fitted.said)
        return where

    return reported(opened, contest, fitted, outputs, write)


def _check_axes(entry: Entry, tasks: Sequence[str], x: str | None, y: str | None) -> None:
    """Refuse axes of a front that will not be, before anything is fitted."""
    if x is None and y is None:
        return
    if "evaluations" not in entry.schema.model_fields:
        raise PlanError(f"{entry.name} is no search, and has no front to draw", hint="Leave x and y out")
    axes_of(task_names(tasks), x, y)


def save_way(fitted: Fitted, outputs: Outputs) -> None:
    """Write the trace and its picture, if they were asked for."""
    if outputs.trace is not None:
        save_trace(fitted, outputs.trace)
    if outputs.picture is not None:
        save_trace_picture(fitted, outputs.picture, x=outputs.x, y=outputs.y)


def reported(
    opened: Opened,
    contest: Contest,
    fitted: Fitted,
    outputs: Outputs,
    write: Callable[[str | Path], Path | str],
) -> FitReport:
    """Write the winner if that was asked for, and report.

    Parameters
    ----------
    write
        Writes the result with its heads and what the guard found.
    """
    verdict, where = contest.verdict, None
    if outputs.model is not None and verdict.winner == FITTED:
        where = write(outputs.model)
    elif outputs.model is not None:
        where = contest.write(verdict.winner, outputs.model, overwrite=outputs.overwrite)
    return FitReport(
        fitted,
        opened.tasks,
        opened.pool.names,
        {
            name: tasted({}, scores, kept=name == verdict.winner)
            for name, scores in verdict.scores.items()
        },
        verdict,
        where,
        *(None if each is None else Path(each) for each in (outputs.trace, outputs.picture)),
    )


def _journal(opened: Opened, method: str, own: Mapping[str, str] | None, seed: int) -> Path:
    """Return where a search's measurements are kept unless a file is named."""
    pool = opened.pool
    models = [pool.yardstick.digest(), *([e.name, e.checkpoint.digest()] for e in pool.experts)]
    digest = canonical_digest([models, list(opened.tasks), method, dict(own or {}), seed])
    return cache_root() / "searches" / f"{digest[:32]}.jsonl"


def _kept(error: FitStopped, beside: str | Path | None) -> FitStopped:
    """Write the last good numbers down beside what was to be written, and say where.

    What stopped in its first step has learned none.
    """
    if beside is None or not error.fitted.trace:
        return error
    path = Path(f"{beside}.stopped.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, error.fitted.plain())
    return FitStopped(f"{error}. They are in {path}", error.fitted)
