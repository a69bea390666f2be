"""A small module fitted on tasks by name, and held against the experts and the merge below it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom.errors import PlanError
from taskloom.evaluation.data import Inputs
from taskloom.learn.fitted import Fitted
from taskloom.learn.modules.kit.artefact import FittedModule, open_fitted
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.modules.kit.predicting import predictions
from taskloom.learn.problem import Problem
from taskloom.merging.api import merge
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.candidates import read_all
from taskloom.runs.desk import Sources
from taskloom.runs.fit import FitReport, fit, reported, save_way
from taskloom.runs.fit_names import named_fit
from taskloom.runs.guarding import guard_composition, plain, tell_beside
from taskloom.runs.judging import Mode, check_mode
from taskloom.runs.opening import FITTED, Outputs, Split, open_fit
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.seen import Labels, Model, Seen
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
    """A fitted module, and how it stands on examples it was not fitted on.

    Attributes
    ----------
    module
        What was fitted.
    report
        The same in the form that ``taskloom.fit`` has. ``report.scored`` has ``merged`` as well: the
        merge below, where it is neither the base nor the plain average.
    """

    module: FittedModule
    report: FitReport


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
    if named_fit(method, merged=merged is not None).family == "module":
        for searched in ("preference", "journal", "x", "y"):
            if given.pop(searched, None):
                raise PlanError(
                    f"{method} is no fit of a recipe, and has no {searched}", hint="Leave it out"
                )
        return fit_on_merge(method, tasks, base, experts, merged=merged, **given).report
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
) -> ModuleReport:
    """Fit a small module on training inputs of tasks, and guard it as ``taskloom.fit`` does.

    Parameters
    ----------
    name
        A name that ``taskloom methods module`` lists.
    merged
        The merge below: a directory, or weights. By default the average of the experts for Surgery, task
        arithmetic with the scale that WEMoE starts from, and the base for the others. The router of
        Twin-Merging needs the folder that ``taskloom parts`` wrote.
    output
        Folder for the module; with ``guard="strict"`` for whoever wins.
    tasks, base, experts, options, own, trace, picture, examples, labels, batch_size, split, transductive
        As ``taskloom.fit``.
    guard, tune, tuned, overwrite, limits, evaluation, seed
        Likewise.

    Raises
    ------
    ModuleStopped
        A loss that is not finite; it carries the last good module.
    PlanError, UnknownName, DataError, CheckpointError, NumericalError, OutputError
        Names, options, data or weights that do not fit, or an output that exists.
    """
    given = get("module", name).validate(dict(options or {}))
    check_mode(guard)
    outputs = Outputs(output, trace, picture, overwrite)
    opened = open_fit(
        tasks,
        base,
        experts,
        outputs=outputs,
        taken=(FITTED, MERGED),
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
    below = _below(name, pool, merged, given)

    def run(seen: Seen) -> tuple[FittedModule, Problem]:
        on = seen.problem(own, batch_size=batch_size)
        return fit_module(name, on, below.open(), **given), on

    try:
        fitted, problem = run(opened.final)
    except ModuleStopped as error:
        raise _kept(error, output) from None
    told = Fitted(fitted.kind, dict(fitted.options), fitted.trace, fitted.said)
    save_way(told, outputs)
    if name == "tinting":  # it sits on a merge that its fit has chosen
        recipe = fitted.layout["recipe"]
        below = _Below(partial(_merge, pool, recipe["method"], recipe["options"]), rival=True)

    def compose(seen: Seen) -> Model:
        found, on = run(seen) if seen.number else (fitted, problem)
        return _with_module(found, seen, on, below.open())

    contest = guard_composition(
        opened.dealt,
        {FITTED: compose},
        mode=guard,
        tune=tune,
        tuned=tuned,
        merges={MERGED: lambda: read_all(below.open())} if below.rival else None,
        tasks=[task for task in opened.tasks if task in fitted.layout["tasks"]],
        progress=progress,
    )

    def write(place: str | Path) -> Path:
        return fitted.save(
            place,
            overwrite=overwrite,
            card=lambda folder: tell_beside(folder, contest, fitted.said, title=Path(place).name),
            record={"guard": plain(contest.verdict)},
        )

    return ModuleReport(fitted, reported(opened, contest, told, outputs, write))


def _kept(error: ModuleStopped, output: str | Path | None) -> ModuleStopped:
    """Save the last good module beside what was to be written, and say where.

    What stopped in its first step has learned nothing.
    """
    if output is None or not error.fitted.trace:
        return error
    place = error.fitted.save(f"{output}.stopped", overwrite=True)
    return ModuleStopped(f"{error}. It is in {place}", error.fitted)


@dataclass(frozen=True)
class _Below:
    """What a module sits on, and whether it is a rival that the guard does not know yet."""

    open: Callable[[], Checkpoint]
    rival: bool


def _below(name: str, pool: Pool, merged: Source | None, options: Mapping[str, Any]) -> _Below:
    base = pool.base
    assert base is not None
    if merged is not None:
        (given,) = open_pool(base, [merged], names=[MERGED]).experts  # it fits the base, or is refused
        return _Below(lambda: given.checkpoint, rival=True)
    if name == "twin_router":
        raise PlanError(
            "twin_router sits on the shared model and the parts beside it, and none were given",
            hint="Make them with 'taskloom parts ... --method twin_merging', and give the folder",
        )
    if name not in BELOW:
        return _Below(lambda: base, rival=False)
    method, settings = BELOW[name]
    if name == "wemoe" and "start" in options:
        settings = {"scale": options["start"]}
    return _Below(partial(_merge, pool, method, settings), rival=method != "average")


def _merge(pool: Pool, method: str, options: Mapping[str, Any]) -> Checkpoint:
    assert pool.base is not None
    by_name = {expert.name: expert for expert in pool.experts}
    return open_checkpoint(merge(pool.base, by_name, method, **options))


def _with_module(fitted: FittedModule, seen: Seen, on: Problem, under: Checkpoint) -> Model:
    """Return the merge with the module, as it is when it has been saved, as a model."""

    def predict(task: str, inputs: Inputs) -> Labels:
        batches, order = seen.in_order(inputs)
        with tempfile.TemporaryDirectory() as scratch:
            opened = open_fitted(fitted.save(Path(scratch) / "module"))
            pairs = list(predictions(opened, on, under, task, batches))
        found = torch.cat([each for each, _ in pairs]).numpy()
        return np.asarray(found[np.argsort(order)])

    return predict
