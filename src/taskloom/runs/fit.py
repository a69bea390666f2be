"""``taskloom.fit``: let a method fill numbers into a recipe, and hold the result against the experts.

What is fitted sees training inputs (test inputs only if that is asked for by name); the guard sees the
validation splits. Test splits stay sealed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from taskloom.errors import NumericalError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.guard import Verdict, guard
from taskloom.evaluation.task import get_task
from taskloom.learn.batches import BatchPlan
from taskloom.learn.data import check_split
from taskloom.learn.fitted import FitStopped, Fitted
from taskloom.learn.probe import Batch, Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.merging.api import merge
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.desk import Desk, Sources, by_name_or_order, open_desk
from taskloom.runs.plan import Limits
from taskloom.runs.soup import Tasted, Taster, tasted
from taskloom.runs.trace import check_picture, save_trace, save_trace_picture
from taskloom.runs.trying import Merges, write_recipe
from taskloom.store.atomic import refuse_existing, write_json
from taskloom.store.cache import cache_root, canonical_digest
from taskloom.store.pool import Pool, open_pool

Split = Literal["train", "test"]
#: how the guard calls the result
FITTED = "fitted"


@dataclass(frozen=True)
class FitReport:
    """What was fitted, and how it stands on validation.

    Attributes
    ----------
    fitted
        The recipe with its numbers, the trace, and where it comes from.
    tasks, experts
        Names.
    scored
        Model -> its validation scores: ``base``, every expert, ``average``, ``fitted``.
    verdict
        Which of them may be handed over, and why.
    path, trace, picture
        What was written, if it was.
    """

    fitted: Fitted
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    scored: Mapping[str, Tasted]
    verdict: Verdict
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
    preference: Mapping[str, float] | None = None,
    journal: str | Path | None = None,
    examples: int = 256,
    batch_size: int = 16,
    split: Split = "train",
    transductive: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> FitReport:
    """Fit the numbers of a recipe on examples of tasks, and write the model that it makes.

    Heads are fitted on the base's features, one per task, so that every model is run under the same.
    Base, every expert, their average and the result are scored on validation.

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
        Directory to write the merged model to.
    trace
        ``.json`` or ``.csv`` file for the trace.
    picture
        PNG or SVG file of the loss and the coefficients by step.
    preference
        Weight of each task in the loss, for methods that search (option ``prefer``).
    journal
        File in which methods that search keep what they measured, so that an interrupted fit is
        resumed by the same call; by default one in the cache that belongs to base, experts, tasks,
        method and seed.
    examples
        Most examples of a task that are fitted on, drawn with ``seed``.
    batch_size
        Examples of a task per forward pass.
    split
        ``"test"`` fits on test inputs, without their labels; it needs ``transductive=True``.
    transductive
        The result may have seen the inputs it will be scored on.
    strict
        Write nothing if the result loses on validation to the base, an expert or their average.
    overwrite
        Replace an existing output.
    limits
        Most examples of each split; the plan's defaults if None.

    Raises
    ------
    FitStopped
        A loss that is not finite. The last good numbers are in the error, and in
        ``OUTPUT.stopped.json`` (or ``TRACE.stopped.json``) if either was named.
    NumericalError
        The result loses on validation, with ``strict``.
    PlanError, UnknownName, DataError, CheckpointError, OutputError
        Names, options, data or weights that do not fit, or an output that exists.
    """
    names = _names(tasks)
    entry = get("fit", method)
    given = entry.validate({**(options or {}), **({"prefer": preference} if preference else {})})
    check_picture(picture, trace)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    if (split == "test") != transductive:
        raise PlanError(
            "a transductive fit is a fit on the test split, and both must be asked for"
            if transductive
            else "a fit on the test split has seen what it will be scored on",
            hint="Give split='test' and transductive=True together, or neither",
        )
    desk = open_desk(base, seed=seed, progress=progress)
    sources, said = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=said)
    loaded = [desk.load(task, limits or Limits()) for task in tasks]
    heads = {data.task.name: desk.head(data) for data in loaded}
    on = _problem(desk, pool, loaded, heads, own, examples, batch_size, split, progress)
    kept = Path(journal) if journal is not None else _journal(pool, names, method, seed)
    on = replace(on, merge=Merges(pool), journal=kept)
    try:
        fitted: Fitted = entry.function(on, **given)
    except FitStopped as error:
        raise _kept(error, output or trace) from None
    if trace is not None:
        save_trace(fitted, trace)
    if picture is not None:
        save_trace_picture(fitted, picture)
    scored = _scored(pool, Taster(desk, loaded, heads), fitted, progress)
    verdict = guard(
        scored["base"].value,
        {name: scored[name].value for name in pool.names},
        {"average": scored["average"].value, FITTED: scored[FITTED].value},
        yardstick="mean validation score",
    )
    if strict and verdict.winner != FITTED:
        raise NumericalError(
            f"{method}: nothing is written, since the fitted model does not win: {verdict.reason}",
            hint="Fit longer or on more examples, or do without the strict guard",
        )
    where = None
    if output is not None:
        where = write_recipe(
            pool, fitted.method, fitted.options, output, overwrite=overwrite, progress=progress
        )
    told = (None if each is None else Path(each) for each in (trace, picture))
    return FitReport(fitted, tuple(names), pool.names, scored, verdict, where, *told)


def _journal(pool: Pool, tasks: Sequence[str], method: str, seed: int) -> Path:
    """Return where a search's measurements are kept unless a file is named."""
    models = [pool.yardstick.digest(), *([e.name, e.checkpoint.digest()] for e in pool.experts)]
    digest = canonical_digest([models, list(tasks), method, seed])
    return cache_root() / "searches" / f"{digest[:32]}.jsonl"


def _names(tasks: Sequence[str]) -> list[str]:
    names = [get_task(task).name for task in tasks]
    if not names:
        raise PlanError("a fit needs one task or more, and there is none", hint="Name a task")
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once")
    return names


def _problem(
    desk: Desk,
    pool: Pool,
    loaded: Sequence[TaskData],
    heads: Mapping[str, Head],
    own: Mapping[str, str] | None,
    examples: int,
    batch_size: int,
    split: Split,
    progress: Progress,
) -> Problem:
    assert pool.base is not None
    encoder, digest = desk.reader.encoder, pool.base.digest()
    probes, batches, validation = {}, {}, {}
    for data in loaded:
        head = heads[data.task.name]
        probes[head.task] = Probe.of_encoder(encoder, head, digest=digest)
        seen = data.test.open("a transductive fit") if split == "test" else data.train
        labels = check_split((seen.inputs, seen.labels), head, split=split)
        batches[head.task] = _examples(
            desk, seen.inputs, None if split == "test" else labels, examples, batch_size
        )
        held = data.validation
        known = check_split((held.inputs, held.labels), head, split="validation")
        validation[head.task] = _examples(desk, held.inputs, known, len(known), batch_size)
    found = {task: task for task in probes if task in pool.names} if own is None else dict(own)
    return Problem(
        pool.base,
        {expert.name: expert.checkpoint for expert in pool.experts},
        probes,
        batches,
        validation,
        found,
        desk.seed,
        progress,
        split,
        split == "test",
    )


def _examples(desk: Desk, inputs: Any, labels: Any, count: int, batch_size: int) -> Examples:
    """Draw examples, and batch them shuffled, those of like length together."""
    encoded = desk.reader.encoder.encode(inputs)
    rows = np.random.default_rng(desk.seed).permutation(len(encoded.lengths))[:count]
    plan = BatchPlan(encoded.lengths[rows], batch_size, seed=desk.seed)

    def make() -> Iterator[Batch]:
        for step in range(plan.per_epoch):
            chosen = rows[plan.at(step)]
            known = None if labels is None else torch.from_numpy(labels[chosen])
            yield encoded.batch(chosen), known

    return Examples(make, len(rows))


def _scored(pool: Pool, taster: Taster, fitted: Fitted, progress: Progress) -> dict[str, Tasted]:
    """Score base, experts, average and result on validation, one model in memory at a time."""
    assert pool.base is not None
    by_name = {expert.name: expert for expert in pool.experts}
    for taken in ("base", "average", FITTED):
        if taken in by_name:
            raise PlanError(f"an expert is called {taken!r}, which means another model here")
    base = pool.base
    models: dict[str, Any] = {
        "base": lambda: {n: base.read(n) for n in base.tensors},
        **{
            name: (lambda c=expert.checkpoint: {n: c.read(n) for n in c.tensors})
            for name, expert in by_name.items()
        },
        "average": lambda: merge(base, by_name, "average"),
        FITTED: lambda: Merges(pool)(fitted.method, fitted.options),
    }
    found = {}
    for number, (name, weights) in enumerate(models.items()):
        now = weights()
        scores = [taster.score(now, data) for data in taster.tasks]
        found[name] = tasted({}, scores, kept=name == FITTED)
        progress("score on validation", number + 1, len(models))
    return found


def _kept(error: FitStopped, beside: str | Path | None) -> FitStopped:
    """Write the last good numbers down beside what was to be written, and say where."""
    if beside is None:
        return error
    path = Path(f"{beside}.stopped.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, error.fitted.plain())
    return FitStopped(f"{error}. They are in {path}", error.fitted)
