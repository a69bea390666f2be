"""Train one encoder on several tasks at once: every step takes a batch of one task."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.errors import PlanError
from taskloom.learn.adaptation import Adaptation, write_provenance
from taskloom.learn.data import Labelled, check_split, data_digest
from taskloom.learn.loop import Job, Split, evaluate, take_step
from taskloom.learn.options import TrainOptions
from taskloom.learn.state import Evaluation, State, load_state, save_state
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.store.cache import canonical_digest

#: part of every cache key; raised whenever the same options lead to other weights
CODE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Part:
    """One task of a mixture.

    Attributes
    ----------
    head
        Stays frozen; names the task.
    train, validation
        ``(inputs, labels)``.
    weight
        Share of the steps, relative to the other tasks'.
    judges
        Whether the task's validation decides which weights are kept.
    """

    head: Head
    train: Labelled
    validation: Labelled
    weight: float = 1.0
    judges: bool = True


@dataclass(frozen=True)
class Mixture:
    """An encoder trained on a mixture, on disk.

    Attributes
    ----------
    directory
        Like the base's, with ``taskloom.json``.
    steps
        Steps taken on every task.
    seconds
        Wall time of training over all sittings.
    best
        Mean validation over the judging tasks of the weights that were kept.
    cached
        True when nothing was trained because the same training had been done.
    """

    directory: Path
    steps: Mapping[str, int]
    seconds: float
    best: Evaluation
    cached: bool


def deal(weights: Sequence[float], steps: int) -> NDArray[np.int64]:
    """Return which task takes each step, ``(steps,)``: that which lags most behind its share.

    After every step each task has had its share of the steps to within one batch (of equal laggards
    the first goes first). A mixture drawn at random has that share on average only.

    >>> deal([1, 1], 4).tolist(), deal([2, 1], 6).tolist()
    ([0, 1, 0, 1], [0, 1, 0, 0, 1, 0])
    """
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    done = np.zeros(len(shares))
    order = np.empty(steps, dtype=np.int64)
    for step in range(steps):
        order[step] = int(np.argmax(np.round(shares * (step + 1) - done, 9)))
        done[order[step]] += 1
    return order


def train_mixture(
    encoder_dir: str | Path,
    parts: Sequence[Part],
    options: TrainOptions,
    *,
    cache: str | Path,
    key_extra: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Mixture:
    """Fine-tune an encoder on several tasks, each under its own frozen head.

    The tasks take turns as `deal` says; batches, schedule and optimiser are those of `train_expert`.
    Of the weights seen every ``options.evaluate_every`` steps those with the highest mean validation
    accuracy over the judging tasks are kept, then those with the lowest mean log loss.

    Cached, resumable and whole or not at all, as `train_expert`.

    Parameters
    ----------
    encoder_dir
        The start.
    parts
        The tasks, at least one; one judges.
    options
        ``steps`` (all tasks together) must be given, ``train_head`` and ``patience`` must not.
    cache
        Folder that holds what was trained.
    key_extra
        Plain data that the result should be told apart by.
    progress
        Called as ``("train A, B", step, steps)``.

    Raises
    ------
    PlanError
        No task, none that judges, a task twice, a weight that is not above 0, options that do not fit.
    DataError, CheckpointError, NumericalError, IntegrityError, OutputError
        As `train_expert`.
    """
    _check(parts, options)
    for part in parts:
        check_split(part.train, part.head, split="train", classes=2)
        check_split(part.validation, part.head, split="validation")
    encoder = Encoder.load(encoder_dir, max_length=options.max_length)
    told = {
        "code": CODE_VERSION,
        "encoder": encoder.digest(),
        "parts": [_told(part) for part in parts],
        "options": options.result_key(),
        "extra": dict(key_extra or {}),
    }
    key = canonical_digest(told)
    target = Path(cache) / f"mixture-{options.method}-{key[:16]}"
    partial = target.with_name(f"{target.name}.partial")
    found = _load(target, key)
    if found is not None:
        shutil.rmtree(partial, ignore_errors=True)
        return found
    method = get("train", options.method)
    named = {name: getattr(options, name) for name in method.schema.model_fields}
    adaptation: Adaptation = method.function(encoder, **named)
    jobs = [_job(adaptation, encoder, part, options) for part in parts]
    optimizer = jobs[0].optimizer()
    moving = jobs[0].parameters
    state = load_state(partial, key, moving, optimizer) or State()
    label = f"train {', '.join(part.head.task for part in parts)}"
    _run(
        jobs,
        parts,
        optimizer,
        state,
        save=lambda now: save_state(partial, key, now, moving, optimizer),
        progress=lambda done, total: progress(label, done, total),
    )
    assert state.best is not None
    record = {
        "format": 1,
        "kind": "mixture",
        "key": key,
        "inputs": told,
        "steps": _counts(parts, state.step),
        "seconds": round(state.seconds, 3),
        "validation": state.best.__dict__,
    }
    adaptation.write(target, lambda folder: write_provenance(folder, record))
    shutil.rmtree(partial, ignore_errors=True)
    return Mixture(target, _counts(parts, state.step), state.seconds, state.best, cached=False)


def _check(parts: Sequence[Part], options: TrainOptions) -> None:
    names = [part.head.task for part in parts]
    if not parts or not any(part.judges for part in parts):
        raise PlanError("a mixture needs a task that judges it, and there is none", hint="Name one")
    if len(set(names)) < len(names):
        raise PlanError(f"a task is named twice in the mixture {', '.join(names)}", hint="Name it once")
    for part in parts:
        if not 0 < part.weight < float("inf"):
            raise PlanError(
                f"task {part.head.task!r} has the weight {part.weight!r} in the mixture, where one "
                "above 0 is needed"
            )
    if options.steps is None or options.train_head or options.patience is not None:
        raise PlanError(
            "a mixture is trained for a number of steps under frozen heads",
            hint="Set steps, and leave train_head and patience out",
        )


def _told(part: Part) -> list[Any]:
    return [
        part.head.digest(),
        data_digest(part.train),
        data_digest(part.validation),
        part.weight,
        part.judges,
    ]


def _job(adaptation: Adaptation, encoder: Encoder, part: Part, options: TrainOptions) -> Job:
    return Job(
        task=part.head.task,
        encoder=adaptation.encoder,
        parameters=adaptation.parameters,
        weight=torch.from_numpy(part.head.weight.copy()),
        bias=torch.from_numpy(part.head.bias.copy()),
        train=Split(encoder.encode(part.train[0]), np.asarray(part.train[1], dtype=np.int64)),
        validation=Split(
            encoder.encode(part.validation[0]), np.asarray(part.validation[1], dtype=np.int64)
        ),
        options=options,
        learning_rate=options.learning_rate or adaptation.learning_rate,
    )


def _run(
    jobs: Sequence[Job],
    parts: Sequence[Part],
    optimizer: torch.optim.Optimizer,
    state: State,
    *,
    save: Callable[[State], None],
    progress: Callable[[int, int], None],
) -> None:
    options = jobs[0].options
    assert options.steps is not None
    total = options.steps
    every = options.evaluate_every or max(1, -(-total // 4))
    order = deal([part.weight for part in parts], total)
    plans = [job.plan() for job in jobs]
    taken = np.bincount(order[: state.step], minlength=len(jobs))
    started = time.perf_counter() - state.seconds
    progress(state.step, total)
    while state.step < total:
        turn = int(order[state.step])
        rows = plans[turn].at(int(taken[turn]))
        state.losses.append(take_step(jobs[turn], optimizer, rows, state.step, total))
        taken[turn] += 1
        state.step += 1
        state.seconds = time.perf_counter() - started
        if state.step % every == 0 or state.step == total:
            _consider(jobs, parts, state)
        progress(state.step, total)
        if state.step % options.save_every == 0 and state.step < total:
            save(state)
    with torch.no_grad():
        for name, parameter in jobs[0].parameters.items():
            parameter.copy_(state.best_weights[name])


def _consider(jobs: Sequence[Job], parts: Sequence[Part], state: State) -> None:
    seen = [evaluate(job, state.step) for job, part in zip(jobs, parts, strict=True) if part.judges]
    mean = Evaluation(
        state.step,
        sum(each.accuracy for each in seen) / len(seen),
        sum(each.loss for each in seen) / len(seen),
    )
    state.history.append(mean)
    if mean.beats(state.best):
        state.best = mean
        state.best_weights = {name: p.detach().clone() for name, p in jobs[0].parameters.items()}


def _counts(parts: Sequence[Part], steps: int) -> dict[str, int]:
    order = deal([part.weight for part in parts], steps)
    return {part.head.task: int((order == n).sum()) for n, part in enumerate(parts)}


def _load(directory: Path, key: str) -> Mixture | None:
    try:
        table = json.loads((directory / "taskloom.json").read_text(encoding="utf-8"))
        if table["key"] != key:
            return None
        best = Evaluation(**table["validation"])
        return Mixture(directory, table["steps"], table["seconds"], best, cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
