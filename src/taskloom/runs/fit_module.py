"""A small module fitted on tasks by name, and held against the experts and the merge below it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskloom.errors import NumericalError, PlanError, UnknownName
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.guard import Verdict, guard
from taskloom.evaluation.score import score
from taskloom.learn.fitted import Fitted
from taskloom.learn.modules.kit.artefact import FittedModule, open_fitted
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.modules.kit.predicting import predictions
from taskloom.learn.problem import Problem
from taskloom.merging.api import merge
from taskloom.progress import Progress, silent
from taskloom.registry import entries, get
from taskloom.runs.desk import Sources, by_name_or_order, open_desk
from taskloom.runs.fit import FITTED, FitReport, Split, _names, _problem, fit
from taskloom.runs.plan import Limits
from taskloom.runs.soup import Tasted, Taster, tasted
from taskloom.runs.trace import check_picture, save_trace, save_trace_picture
from taskloom.store.atomic import refuse_existing
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.open import Source, open_checkpoint
from taskloom.store.pool import Pool, open_pool

#: module -> the merge it sits on where none is given; the others sit on the base
BELOW: dict[str, tuple[str, dict[str, Any]]] = {
    "surgery": ("average", {}),
    "surgery_v2": ("average", {}),
    "wemoe": ("task_arithmetic", {"scale": 0.3}),
}
#: how the guard calls the merge below
MERGED = "merged"


@dataclass(frozen=True)
class ModuleReport:
    """What was fitted, and how it stands on validation.

    Attributes
    ----------
    fitted
        The module.
    tasks, experts
        Names.
    scored
        Model -> its validation scores: ``base``, every expert, ``merged`` (the merge below),
        ``fitted`` (with the module).
    verdict
        Which of them may be handed over, and why.
    path
        The module's folder, if it was written.
    """

    fitted: FittedModule
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    scored: Mapping[str, Tasted]
    verdict: Verdict
    path: Path | None = None
    trace: Path | None = None
    picture: Path | None = None

    def report(self) -> FitReport:
        """Return the same in the form that ``taskloom.fit`` has, with JSON types only."""
        return FitReport(
            _told(self.fitted),
            self.tasks,
            self.experts,
            self.scored,
            self.verdict,
            self.path,
            self.trace,
            self.picture,
        )


def fit_by_name(
    method: str,
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    merged: Source | None = None,
    **given: Any,
) -> FitReport:
    """Fit a recipe or a small module, whichever has the name.

    Parameters
    ----------
    method
        A name that ``taskloom methods fit`` or ``taskloom methods module`` lists.
    merged
        For a module: as `fit_on_merge`.
    tasks, base, experts, **given
        As ``taskloom.fit``.

    Raises
    ------
    UnknownName, PlanError
        There is no such method or module; a merge below a recipe, which makes its own.
    """
    modules = [entry.name for entry in entries("module")]
    if method in modules:
        for searched in ("preference", "journal"):
            if given.pop(searched, None):
                raise PlanError(f"{method} is no search, and has no {searched}", hint="Leave it out")
        return fit_on_merge(method, tasks, base, experts, merged=merged, **given).report()
    recipes = [entry.name for entry in entries("fit")]
    if method not in recipes:
        raise UnknownName("fitting method or small module", method, [*recipes, *modules])
    if merged is not None:
        raise PlanError(
            f"{method} fits a merge of its own, and sits on none",
            hint="Leave the merged model out",
        )
    return fit(method, tasks, base, experts, **given)


def fit_on_merge(
    name: str,
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    merged: Source | None = None,
    options: Mapping[str, Any] | None = None,
    own: Mapping[str, str] | None = None,
    output: str | Path | None = None,
    trace: str | Path | None = None,
    picture: str | Path | None = None,
    examples: int = 256,
    batch_size: int = 16,
    split: Split = "train",
    transductive: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> ModuleReport:
    """Fit a small module on training inputs of tasks, and score it on validation.

    Parameters
    ----------
    name
        A name that ``taskloom methods module`` lists.
    merged
        The merge below: a directory, or weights. By default the average of the experts for Surgery, task
        arithmetic with the scale that WEMoE starts from, and the base for the others. The router of
        Twin-Merging needs the folder that ``taskloom parts`` wrote.
    output
        Folder for the module.
    tasks, base, experts, options, own, trace, picture, examples, batch_size, split, transductive
        As ``taskloom.fit``.
    strict, overwrite, limits, seed
        Likewise.

    Raises
    ------
    ModuleStopped
        A loss that is not finite; it carries the last good module.
    NumericalError
        The result loses on validation, with ``strict``.
    PlanError, UnknownName, DataError, CheckpointError, OutputError
        Names, options, data or weights that do not fit, or an output that exists.
    """
    names = _names(tasks)
    given = get("module", name).validate(dict(options or {}))
    check_picture(picture, trace)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    if (split == "test") != transductive:
        raise PlanError(
            "a fit on the test split is a transductive fit, and both must be asked for",
            hint="Give split='test' and transductive=True together, or neither",
        )
    desk = open_desk(base, seed=seed, progress=progress)
    sources, said = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=said)
    for taken in ("base", MERGED, FITTED):
        if taken in pool.names:
            raise PlanError(f"an expert is called {taken!r}, which means another model here")
    loaded = [desk.load(task, limits or Limits()) for task in tasks]
    heads = {data.task.name: desk.head(data) for data in loaded}
    on = _problem(desk, pool, loaded, heads, own, examples, batch_size, split, progress)
    under = _below(name, pool, merged, given)
    fitted = fit_module(name, on, under, **given)
    told = _told(fitted)
    if trace is not None:
        save_trace(told, trace)
    if picture is not None:
        save_trace_picture(told, picture)
    if name == "tinting":
        under = _merge(pool, fitted.layout["recipe"]["method"], fitted.layout["recipe"]["options"])
    learned = [data for data in loaded if data.task.name in fitted.layout["tasks"]]
    scored = _scored(pool, Taster(desk, learned, heads), under, progress)
    scored[FITTED] = _with_module(fitted, on, under, learned, seed)
    verdict = guard(
        scored["base"].value,
        {expert: scored[expert].value for expert in pool.names},
        {MERGED: scored[MERGED].value, FITTED: scored[FITTED].value},
        yardstick="mean validation score",
    )
    if strict and verdict.winner != FITTED:
        raise NumericalError(
            f"{name}: nothing is written, since the fitted module does not win: {verdict.reason}",
            hint="Fit longer or on more examples, or do without the strict guard",
        )
    path = None if output is None else fitted.save(output, overwrite=overwrite)
    kept = (None if each is None else Path(each) for each in (trace, picture))
    return ModuleReport(fitted, tuple(names), pool.names, scored, verdict, path, *kept)


def _told(fitted: FittedModule) -> Fitted:
    return Fitted(fitted.kind, dict(fitted.options), fitted.trace, fitted.said)


def _below(name: str, pool: Pool, merged: Source | None, options: Mapping[str, Any]) -> Checkpoint:
    assert pool.base is not None
    if merged is not None:
        return open_checkpoint(merged)
    if name == "twin_router":
        raise PlanError(
            "twin_router sits on the shared model and the parts beside it, and none were given",
            hint="Make them with 'taskloom parts ... --method twin_merging', and give the folder",
        )
    if name not in BELOW:
        return pool.base
    method, settings = BELOW[name]
    if name == "wemoe" and "start" in options:
        settings = {"scale": options["start"]}
    return _merge(pool, method, settings)


def _merge(pool: Pool, method: str, options: Mapping[str, Any]) -> Checkpoint:
    assert pool.base is not None
    by_name = {expert.name: expert for expert in pool.experts}
    return open_checkpoint(merge(pool.base, by_name, method, **options))


def _scored(pool: Pool, taster: Taster, under: Checkpoint, progress: Progress) -> dict[str, Tasted]:
    """Score base, experts and the merge below, one model in memory at a time."""
    assert pool.base is not None
    models = {"base": pool.base, **{e.name: e.checkpoint for e in pool.experts}, MERGED: under}
    found: dict[str, Tasted] = {}
    for number, (name, checkpoint) in enumerate(models.items(), start=1):
        weights = {tensor: checkpoint.read(tensor) for tensor in checkpoint.tensors}
        scores = [taster.score(weights, data) for data in taster.tasks]
        found[name] = tasted({}, scores, kept=False)
        progress("score on validation", number, len(models))
    return found


def _with_module(
    fitted: FittedModule, on: Problem, under: Checkpoint, tasks: Sequence[TaskData], seed: int
) -> Tasted:
    """Score the merge with the module, as it is when it has been saved."""
    with tempfile.TemporaryDirectory() as scratch:
        opened = open_fitted(fitted.save(Path(scratch) / "module"))
        scores = []
        for data in tasks:
            name = data.task.name
            pairs = list(predictions(opened, on, under, name, on.validation[name]))
            predicted = torch.cat([each for each, _ in pairs]).numpy()
            labels = torch.cat([each for _, each in pairs if each is not None]).numpy()
            metric = data.task.metric
            scores.append(
                score(labels, predicted, metric=metric, split="validation", seed=seed, task=name)
            )
    return tasted({}, scores, kept=True)
