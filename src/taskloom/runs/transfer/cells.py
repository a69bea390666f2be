"""The cells of one source and target: every way is tried, and what cannot be is told why."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskloom.errors import TaskloomError
from taskloom.learn.train import TrainedExpert, train_expert
from taskloom.merging.executor import execute, plan_merge
from taskloom.registry import get
from taskloom.runs.candidates import read_all
from taskloom.runs.transfer.ledger import Cell, Seeded
from taskloom.runs.transfer.plan import BASE, TransferPlan, Way
from taskloom.runs.transfer.source import Source, source_expert
from taskloom.runs.transfer.target import Start, Target, entered, open_target
from taskloom.runs.workspace import numeric_versions
from taskloom.store.cache import cache_root
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Expert, Pool

#: weights, what was trained for them, and the head that they are scored under
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Outcome:
    """Rows of one seed, and what they were measured with."""

    seed: int
    rows: tuple[Cell, ...]
    seeded: Seeded


@dataclass(frozen=True)
class Prepared:
    """A source's expert, or why there is none."""

    source: str
    seed: int
    found: Source | None
    failed: str = ""


def prepare(plan: TransferPlan, source: str, seed: int) -> Prepared:
    """Train a source's expert or find it; what goes wrong is told, not raised."""
    try:
        return Prepared(source, seed, source_expert(plan, source, seed))
    except Exception as error:
        return Prepared(source, seed, None, f"the source's expert: {in_words(error)}")


def measure(
    plan: TransferPlan, target: str, seed: int, source: str, ways: Sequence[Way], expert: Source | None
) -> Outcome:
    """Measure one source, or the base, on one target in some ways; what goes wrong is a row, too.

    Parameters
    ----------
    source, expert
        Name of the source, or ``base`` without an expert.
    """
    places = {"source": source, "target": target, "seed": seed}
    seeded = Seeded() if expert is None else Seeded(experts={source: expert.digest})
    try:
        opened = open_target(entered(plan), target, seed)
        seeded = seeded.model_copy(update={"data": {target: opened.data.digest}})
        start = opened.base if expert is None else Start(source, expert.directory)
        opened.head(start)
    except Exception as error:
        failed = in_words(error)
        return Outcome(seed, tuple(Cell(way=way, **places, failed=failed) for way in ways), seeded)
    rows = []
    for way in ways:
        begun = time.process_time()
        try:
            found = _WAYS[way](opened, start)
        except Exception as error:
            rows.append(Cell(way=way, **places, failed=in_words(error)))
            continue
        seconds = round(time.process_time() - begun, 3)
        n_test = opened.data.n_test
        rows.append(Cell(way=way, **places, **found, n_test=n_test, seconds=seconds))
    return Outcome(seed, tuple(rows), seeded)


def in_words(error: Exception) -> str:
    """Return an error as one sentence without line breaks.

    >>> in_words(KeyError("w"))
    "unexpected KeyError: 'w'"
    """
    said = " ".join(str(error).split())
    return said if isinstance(error, TaskloomError) else f"unexpected {type(error).__name__}: {said}"


def _full(target: Target, start: Start) -> dict[str, Any]:
    return _tuned(target, start, "full")


def _lora(target: Target, start: Start) -> dict[str, Any]:
    return _tuned(target, start, "lora")


def _zero_shot(target: Target, start: Start) -> dict[str, Any]:
    """Score a model as it is, under the head that was fitted on its frozen features."""
    return _scored(target, start.weights, start)


def _merge(target: Target, start: Start) -> dict[str, Any]:
    """Merge a source with the target's own expert; without a source, score that expert."""
    trained = own_expert(target)
    base = target.base.checkpoint
    own = Expert("own", open_checkpoint(trained.directory, base=base))
    if start.name == BASE:
        return _scored(target, read_all(own.checkpoint), target.base)
    pool = Pool(base, (Expert("source", start.checkpoint), own))
    with torch.inference_mode():
        merged = dict(execute(plan_merge(pool, target.plan.merging(target.seed).chain)))
    return _scored(target, merged, target.base)


_WAYS = {"full": _full, "lora": _lora, "merge": _merge, "zero_shot": _zero_shot}


def _scored(target: Target, weights: Weights, start: Start) -> dict[str, Any]:
    head = target.head(start)
    return {"test": target.test(weights, head), "validation": target.validation(weights, head)}


def own_expert(target: Target) -> TrainedExpert:
    """Fine-tune the base on the target, or find it in the cache, where it is kept."""
    return _train(target, target.base, "full", cache_root() / "experts")


def _tuned(target: Target, start: Start, way: Way) -> dict[str, Any]:
    """Fine-tune a model on the target and score the weights that validate best.

    The base's full fine-tune is kept, for merges and for estimates that look at it; others are taken
    away once they are scored.
    """
    kept = start.name == BASE and way == "full"
    folder = cache_root() / ("experts" if kept else "transfer/cells")
    trained = _train(target, start, way, folder)
    weights = read_all(open_checkpoint(trained.directory, base=start.checkpoint))
    found = {"test": target.test(weights, trained.head), "validation": trained.best_validation}
    if not kept:
        shutil.rmtree(trained.directory, ignore_errors=True)
    return {**found, "steps": trained.steps}


def _train(target: Target, start: Start, way: Way, cache: Path) -> TrainedExpert:
    options, data = target.plan.fine_tuning(way, target.seed), target.data
    used = [need for need in get("train", options.method).needs if need == "peft"]
    return train_expert(
        start.directory,
        target.head(start),
        (data.train.inputs, data.train.labels),
        (data.validation.inputs, data.validation.labels),
        options,
        cache=cache,
        key_extra={"task": data.digest, "versions": numeric_versions(*used)},
    )
