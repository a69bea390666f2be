"""Train one expert for one task from one base: cached, resumable, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taskloom.errors import CheckpointError, DataError
from taskloom.learn.adaptation import Adaptation, write_provenance
from taskloom.learn.data import Labelled, check_split, data_digest
from taskloom.learn.loop import Job, Split, run
from taskloom.learn.options import TrainOptions
from taskloom.learn.state import Evaluation, State, load_state, save_state
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.store.cache import canonical_digest

#: part of every cache key; raised whenever the same options lead to other weights
CODE_VERSION = 1
_HEAD_WEIGHT, _HEAD_BIAS = "head.weight", "head.bias"


@dataclass(frozen=True)
class TrainedExpert:
    """A trained expert on disk.

    Attributes
    ----------
    directory
        A model directory (``full``) or adapter directory (``lora``), with ``heads/`` and
        ``taskloom.json``.
    head
        The head inside: the one passed in, or the trained one.
    steps
        Steps done; fewer than asked for if stopped early.
    seconds
        Wall time of training, over all sittings; not of this call when ``cached``.
    validation
        Validation of the weights that were kept.
    before
        Validation of the base with the head that was passed in.
    history
        All validations, first to last.
    cached
        True when nothing was trained because the same training had been done.
    key
        SHA-256 (hex) of everything that decides the result.
    """

    directory: Path
    head: Head
    steps: int
    seconds: float
    validation: Evaluation
    before: Evaluation
    history: tuple[Evaluation, ...]
    cached: bool
    key: str

    @property
    def best_validation(self) -> float:
        """Validation accuracy of the weights that were kept."""
        return self.validation.accuracy


def train_expert(
    encoder_dir: str | Path,
    head: Head,
    train: Labelled,
    validation: Labelled,
    options: TrainOptions | None = None,
    *,
    cache: str | Path,
    key_extra: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> TrainedExpert:
    """Fine-tune an encoder for a task and keep the weights that validate best.

    The head stays frozen unless ``options.train_head``, so that the one head that was fitted on the
    base's features serves base, expert and every merge alike. The best weights are those with the
    highest validation accuracy, then the lowest log loss; the untrained encoder is no candidate.

    The same call gives the same bytes on the same machine with the same number of threads.
    A finished training is kept in ``cache`` under a hash of encoder, head, data, options,
    ``key_extra`` and `CODE_VERSION`, and found again. An unfinished one leaves ``NAME.partial``
    there with the state of every ``options.save_every`` steps, and the same call goes on from it.

    Parameters
    ----------
    encoder_dir
        The base; see `Encoder.load`.
    head
        Declares the label names and the task.
    train, validation
        ``(inputs, labels)``; see `Encoder.encode`.
    options
        Defaults: full fine-tuning for one epoch.
    cache
        Folder that holds the experts.
    key_extra
        Anything else (plain JSON data) the result should be told apart by.
    progress
        Called as ``("train TASK", step, steps)``.

    Raises
    ------
    DataError
        An empty split, training data of one class, labels outside the declared set, or a head of
        another width.
    CheckpointError
        An encoder that cannot be loaded.
    UnknownName, PlanError
        An unknown method, or options that fit neither method nor encoder.
    NumericalError
        The loss becomes NaN or infinite.
    IntegrityError
        A saved state that is damaged.
    OutputError
        The disk is full or the cache cannot be written.
    """
    options = options or TrainOptions()
    method = get("train", options.method)
    train_labels = check_split(train, head, split="train", classes=2)
    validation_labels = check_split(validation, head, split="validation")
    encoder = Encoder.load(encoder_dir, max_length=options.max_length)
    if head.weight.shape[1] != encoder.dim:
        raise DataError(
            f"task {head.task!r}: expected a head on {encoder.dim} features, "
            f"found one on {head.weight.shape[1]}",
            hint="Fit the head on this encoder's features",
        )
    parts = {
        "code": CODE_VERSION,
        "encoder": encoder.digest(),
        "head": head.digest(),
        "train": data_digest(train),
        "validation": data_digest(validation),
        "options": options.result_key(),
        "extra": dict(key_extra or {}),
    }
    key = canonical_digest(parts)
    target = Path(cache) / f"{head.task}-{options.method}-{key[:16]}"
    partial = target.with_name(f"{target.name}.partial")
    found = load_expert(target, key)
    if found is not None:
        shutil.rmtree(partial, ignore_errors=True)
        return found

    named = {name: getattr(options, name) for name in method.schema.model_fields}
    adaptation: Adaptation = method.function(encoder, **named)
    job = _job(
        adaptation,
        head,
        Split(encoder.encode(train[0]), train_labels),
        Split(encoder.encode(validation[0]), validation_labels),
        options,
    )
    optimizer = job.optimizer()
    state = load_state(partial, key, job.parameters, optimizer) or State()
    state = run(
        job,
        optimizer,
        state,
        save=lambda now: save_state(partial, key, now, job.parameters, optimizer),
        progress=progress,
    )
    trained = _trained_head(job, head, options)
    provenance = _provenance(parts, key, head.task, encoder, state)
    adaptation.write(target, lambda folder: _add(folder, trained, provenance))
    shutil.rmtree(partial, ignore_errors=True)
    return _expert(target, trained, key, state, cached=False)


def load_expert(directory: Path, key: str) -> TrainedExpert | None:
    """Return the finished training of ``key`` in ``directory``, or None when it is not there."""
    try:
        table = json.loads((directory / "taskloom.json").read_text(encoding="utf-8"))
        if table["key"] != key:
            return None
        history = [Evaluation(**each) for each in table["history"]]
        state = State(
            step=table["steps"],
            seconds=table["seconds"],
            before=Evaluation(**table["before"]),
            best=Evaluation(**table["validation"]),
            history=history,
        )
        return _expert(directory, Head.load(directory, table["task"]), key, state, cached=True)
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None


def _job(
    adaptation: Adaptation, head: Head, train: Split, validation: Split, options: TrainOptions
) -> Job:
    weight = nn.Parameter(torch.from_numpy(head.weight.copy()), requires_grad=options.train_head)
    bias = nn.Parameter(torch.from_numpy(head.bias.copy()), requires_grad=options.train_head)
    parameters = dict(adaptation.parameters)
    if options.train_head:
        parameters |= {_HEAD_WEIGHT: weight, _HEAD_BIAS: bias}
    return Job(
        task=head.task,
        encoder=adaptation.encoder,
        parameters=parameters,
        weight=weight,
        bias=bias,
        train=train,
        validation=validation,
        options=options,
        learning_rate=options.learning_rate or adaptation.learning_rate,
    )


def _trained_head(job: Job, head: Head, options: TrainOptions) -> Head:
    if not options.train_head:
        return head
    weight, bias = (each.detach().numpy().astype(np.float32) for each in (job.weight, job.bias))
    return Head(weight, bias, head.labels, head.task)


def _provenance(
    parts: Mapping[str, Any], key: str, task: str, encoder: Encoder, state: State
) -> dict[str, object]:
    import transformers

    import taskloom

    assert state.best is not None
    assert state.before is not None
    return {
        "format": 1,
        "kind": "expert",
        "task": task,
        "method": parts["options"]["method"],
        "key": key,
        "inputs": dict(parts),
        "base": {"directory": str(encoder.directory), "digest": parts["encoder"]},
        "steps": state.step,
        "seconds": round(state.seconds, 3),
        "before": state.before.__dict__,
        "validation": state.best.__dict__,
        "history": [each.__dict__ for each in state.history],
        "versions": {
            "taskloom": taskloom.__version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
    }


def _add(folder: Path, head: Head, provenance: dict[str, object]) -> None:
    head.save(folder)
    write_provenance(folder, provenance)


def _expert(directory: Path, head: Head, key: str, state: State, *, cached: bool) -> TrainedExpert:
    assert state.best is not None
    assert state.before is not None
    return TrainedExpert(
        directory=directory,
        head=head,
        steps=state.step,
        seconds=state.seconds,
        validation=state.best,
        before=state.before,
        history=tuple(state.history),
        cached=cached,
        key=key,
    )
