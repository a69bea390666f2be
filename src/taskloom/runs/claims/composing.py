"""One learned composition on the first tasks of a stage: fitted, and ready to be scored.

What it sees is said by `taskloom.runs.claims.learned`; test examples are seen when it is scored, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom import registry
from taskloom.errors import PlanError
from taskloom.evaluation.data import Examples as Labelled
from taskloom.evaluation.data import TaskData
from taskloom.learn.batches import BatchPlan
from taskloom.learn.fitted import Fitted
from taskloom.learn.modules.kit.artefact import FittedModule, open_fitted
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.modules.kit.predicting import predictions
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.merging.parts import merge_parts
from taskloom.merging.recipe import Recipe
from taskloom.models.encoder import Encoder
from taskloom.runs.candidates import Candidate, read_all
from taskloom.runs.claims.learned import Run, given_options
from taskloom.runs.claims.making import Made, keeps_parts, make
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import Stage
from taskloom.runs.desk import Desk
from taskloom.runs.loops.encoders import EncoderShop
from taskloom.runs.loops.journal import Journal
from taskloom.runs.loops.method import Plan, Setting
from taskloom.runs.loops.training import OWN, training_options
from taskloom.runs.trying import Merges
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint


@dataclass(frozen=True)
class Composed:
    """A composition that is ready.

    Attributes
    ----------
    accuracy
        Task -> accuracy on its test examples.
    seconds
        Of fitting and merging.
    stored_bytes
        Of all that must be kept to run every task.
    """

    accuracy: Callable[[str], float]
    seconds: float
    stored_bytes: int


def compose(stage: Stage, scorer: Scorer, count: int, run: Run, folder: Path) -> Composed:
    """Fit a composition to the first ``count`` tasks.

    Parameters
    ----------
    folder
        An empty folder, which must outlive the result.

    Raises
    ------
    PlanError, CheckpointError, DataError, NumericalError
        It has no rule for these experts, or its loss is not finite.
    """
    if run.experts not in (None, stage.kind):
        takes = "LoRA adapters" if run.experts == "lora" else "full fine-tunes"
        raise PlanError(f"{run.of} takes {takes}, and these experts are of another kind")
    how = {"fit": _fit, "module": _module, "loop": _loop}[run.family]
    return how(stage, scorer, count, run, folder)


# --- what may be seen -------------------------------------------------------------------------


def problem_of(stage: Stage, count: int, run: Run) -> Problem:
    """Return what a composition may see: experts, models under their heads, and examples.

    Adapters are given as they are stored; of other experts the tensors that some expert changed.
    """
    ground = stage.ground
    pool = stage.first_stored(count) if run.experts == "lora" else stage.first(count)
    assert pool.base is not None
    own = {n: t for n, t in ground.encoder.state_dict().items() if n in pool.tensors}
    digest = pool.base.digest()
    probes, batches = {}, {}
    for data in ground.tasks[:count]:
        head = ground.heads[data.task.name]
        probes[head.task] = Probe.of_encoder(
            ground.encoder, head, weights=own, digest=digest, label="base"
        )
        batches[head.task] = _shown(ground.encoder, data, run, ground.seed)
    return Problem(
        pool.base,
        {expert.name: expert.checkpoint for expert in pool.experts},
        probes,
        batches,
        own={task: task for task in probes},
        seed=ground.seed,
        progress=ground.progress,
        merge=Merges(pool),
    )


def _shown(encoder: Encoder, data: TaskData, run: Run, seed: int) -> Examples:
    """Return batches of what is seen of a task, without labels where none are used."""
    seen: Labelled = data.validation
    if run.sees == "inputs":
        rows = np.random.default_rng(seed).permutation(len(data.train))[: run.examples]
        seen = data.train.take(rows)
    encoded = encoder.encode(seen.inputs)
    plan = BatchPlan(encoded.lengths, run.batch_size, seed=seed)
    labels = torch.from_numpy(seen.labels) if run.sees == "labels" else None
    order = [plan.at(step) for step in range(plan.per_epoch)]
    return Examples.of((encoded.batch(rows), None if labels is None else labels[rows]) for rows in order)


# --- recipes ----------------------------------------------------------------------------------


def _fit(stage: Stage, scorer: Scorer, count: int, run: Run, folder: Path) -> Composed:
    entry = registry.get("fit", run.of)
    begun = time.perf_counter()
    options = entry.validate(given_options(run, stage.ground.suite))
    fitted: Fitted = entry.function(problem_of(stage, count, run), **options)
    recipe = Recipe.of(fitted.method, **fitted.options)
    made = make(stage, count, recipe, None, folder)
    seconds = time.perf_counter() - begun
    return Composed(lambda task: scorer.test(task, made.weights(task)), seconds, made.stored_bytes)


# --- small modules ----------------------------------------------------------------------------


def _module(stage: Stage, scorer: Scorer, count: int, run: Run, folder: Path) -> Composed:
    on, begun = problem_of(stage, count, run), time.perf_counter()
    under, below_bytes = _below(stage, on, count, run, folder)
    options = given_options(run, stage.ground.suite)
    groups = [(task,) for task in on.tasks] if run.each else [on.tasks]
    fitted: dict[str, tuple[FittedModule, Problem, Checkpoint]] = {}
    stored = below_bytes
    for number, tasks in enumerate(groups):
        part = replace(on, batches={task: on.batches[task] for task in tasks})
        one = fit_module(run.of, part, under, **options)
        sits = under
        recipe = one.layout.get("recipe")
        if recipe is not None:  # it learned the merge that it sits on
            chosen = Recipe.of(recipe["method"], **recipe["options"])
            merged = make(stage, count, chosen, None, folder)
            sits = _merged(merged, tasks[0])
        opened = open_fitted(one.save(folder / f"module-{number}"))
        stored += opened.bytes_stored
        fitted |= dict.fromkeys(tasks, (opened, part, sits))
    seconds = time.perf_counter() - begun

    def accuracy(task: str) -> float:
        module, part, sits = fitted[task]
        right = total = 0
        for said, labels in predictions(module, part, sits, task, scorer.examples(task)):
            assert labels is not None
            right, total = right + int((said == labels).sum()), total + len(labels)
        return right / total

    return Composed(accuracy, seconds, stored)


def _below(stage: Stage, on: Problem, count: int, run: Run, folder: Path) -> tuple[Checkpoint, int]:
    """Return the merge that a module sits on, and the bytes it takes without the module."""
    if run.below is None:
        return on.base, stage.base_bytes
    if keeps_parts(run.below.method):  # they are copied into the module, whose bytes count them
        pool = stage.first(count)
        merge_parts(
            pool.yardstick, pool.experts, run.below.method, folder / "below", **run.below.options
        )
        return open_checkpoint(folder / "below"), stage.kept_bytes
    recipe = Recipe.of(run.below.method, **run.below.options)
    made = make(stage, count, recipe, None, folder)
    return _merged(made, on.tasks[0]), made.stored_bytes


def _merged(made: Made, task: str) -> Checkpoint:
    """Return merged weights as copies that gradients may pass, which those of inference mode are not."""
    weights = {name: tensor.clone() for name, tensor in made.weights(task).items()}
    return MemoryCheckpoint(weights, label="merged")


# --- loops ------------------------------------------------------------------------------------


def _loop(stage: Stage, scorer: Scorer, count: int, run: Run, folder: Path) -> Composed:
    ground, entry = stage.ground, registry.get("loop", run.of)
    tasks = ground.names[:count]
    kept = {n: v for n, v in ground.suite.experts["full"].items() if n not in OWN}
    base = Candidate("base", "base", "Base", ground.encoder.digest(), ground.encoder.state_dict)
    desk = Desk(ground.reader, base, ground.seed)
    data = dict(zip(tasks, ground.tasks, strict=False))
    shop = EncoderShop(desk, data, training_options(kept), folder / "tuned")
    options = given_options(run, ground.suite)
    begun = time.perf_counter()
    models: dict[str, tuple[Path, Any]] = {}
    for number, mine in enumerate([(task,) for task in tasks] if run.each else [tasks]):
        own = folder / f"loop-{number}"
        on = Setting(shop, tasks, ground.encoder.directory, own / "rivals", ground.seed, ground.progress)
        aimed = {"targets": mine} if run.each else {}
        plan: Plan = entry.function(on, **entry.validate({**options, **aimed}))
        model, head = _played(plan, shop, on, own, mine)
        models |= {task: (model, head(task)) for task in mine}
    seconds = time.perf_counter() - begun

    def accuracy(task: str) -> float:
        model, head = models[task]
        return scorer.test(task, read_all(open_checkpoint(model)), head)

    return Composed(accuracy, seconds, len({m for m, _ in models.values()}) * stage.base_bytes)


def _played(
    plan: Plan, shop: EncoderShop, on: Setting, folder: Path, judged: Sequence[str]
) -> tuple[Path, Callable[[str], Any]]:
    """Carry out a loop; return its last model, and the head that each task has there."""
    workshop = plan.shop or shop
    journal = Journal(folder, on.start, progress=on.progress)
    with journal.held():
        rounds = journal.play(workshop, plan.turn, plan.rounds, judged)
    model = journal.model(rounds[-1].number)
    heads = workshop if isinstance(workshop, EncoderShop) else shop
    return model, lambda task: heads.head(task, model)
