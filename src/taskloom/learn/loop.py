"""The training loop: batches in, best weights kept, state saved every so often."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from taskloom.errors import NumericalError
from taskloom.learn.batches import BatchPlan
from taskloom.learn.options import TrainOptions
from taskloom.learn.state import Evaluation, State
from taskloom.models.encoder import Encoder, autocast
from taskloom.models.inputs import Encoded
from taskloom.progress import Progress


@dataclass(frozen=True)
class Split:
    """Inputs made ready once, with their labels ``(N,)`` int64."""

    encoded: Encoded
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """One training, ready to run.

    ``parameters`` are all that move, the head's included when it does; ``weight`` ``(C, D)`` and
    ``bias`` ``(C,)`` are the head.
    """

    task: str
    encoder: Encoder
    parameters: dict[str, nn.Parameter]
    weight: Tensor
    bias: Tensor
    train: Split
    validation: Split
    options: TrainOptions
    learning_rate: float

    def plan(self) -> BatchPlan:
        """Return which examples make which step."""
        lengths = self.train.encoded.lengths
        return BatchPlan(lengths, self.options.batch_size, seed=self.options.seed)

    def total_steps(self) -> int:
        """Return the number of steps when nothing stops it early."""
        if self.options.steps is not None:
            return self.options.steps
        return max(1, round(self.options.epochs * self.plan().per_epoch))

    def optimizer(self) -> torch.optim.AdamW:
        """Return AdamW with weight decay on matrices only."""
        groups = [
            {
                "params": [p for p in self.parameters.values() if (p.ndim > 1) == matrix],
                "weight_decay": self.options.weight_decay if matrix else 0.0,
            }
            for matrix in (True, False)
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.learning_rate, fused=True
        )


def run(
    job: Job,
    optimizer: torch.optim.Optimizer,
    state: State,
    *,
    save: Callable[[State], None],
    progress: Progress,
) -> State:
    """Train from ``state`` to the end and leave the best weights in the parameters.

    Raises
    ------
    NumericalError
        The loss or its gradient is NaN or infinite; the message names step and task.
    """
    options, plan, total = job.options, job.plan(), job.total_steps()
    every = options.evaluate_every or max(1, -(-total // 4))
    label = f"train {job.task}"
    started = time.perf_counter() - state.seconds
    if state.before is None:
        state.before = evaluate(job, 0)
    progress(label, state.step, total)
    while state.step < total:
        state.losses.append(take_step(job, optimizer, plan.at(state.step), state.step, total))
        state.step += 1
        state.seconds = time.perf_counter() - started
        if state.step % every == 0 or state.step == total:
            _consider(job, state)
        progress(label, state.step, total)
        if options.patience is not None and state.waited >= options.patience:
            break
        if state.step % options.save_every == 0 and state.step < total:
            save(state)
    with torch.no_grad():
        for name, parameter in job.parameters.items():
            parameter.copy_(state.best_weights[name])
    state.seconds = time.perf_counter() - started
    progress(label, total, total)
    return state


def schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate for ``step``, counted from 0.

    Rises linearly over the first ``warmup * total`` steps, then falls linearly towards 0, which it
    would reach after the last step.

    >>> [round(schedule(step, 10, 0.2), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.125]
    """
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    return (total - step) / max(1, total - rise)


def evaluate(job: Job, step: int) -> Evaluation:
    """Return accuracy and log loss on the validation split with the weights as they are."""
    labels = torch.from_numpy(job.validation.labels)
    order = np.argsort(-job.validation.encoded.lengths, kind="stable")
    job.encoder.module.eval()
    right, loss = 0, 0.0
    size = max(32, job.options.batch_size)
    with torch.no_grad():
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            logits = _logits(job, rows, job.validation)
            target = labels[torch.from_numpy(rows)]
            right += int((logits.argmax(1) == target).sum())
            loss += float(cross_entropy(logits, target, reduction="sum"))
    return Evaluation(step, right / len(order), loss / len(order))


def _logits(job: Job, rows: NDArray[np.int64], split: Split) -> Tensor:
    with autocast(job.options.precision):
        features = job.encoder.pooled(split.encoded.batch(rows))
    return linear(features, job.weight, job.bias)


def take_step(
    job: Job, optimizer: torch.optim.Optimizer, rows: NDArray[np.int64], step: int, total: int
) -> float:
    """Take step ``step`` of ``total``, from 0, on the training examples ``rows``; return the loss.

    Raises
    ------
    NumericalError
        As `run`.
    """
    options = job.options
    for group in optimizer.param_groups:
        group["lr"] = job.learning_rate * schedule(step, total, options.warmup)
    job.encoder.module.train()
    optimizer.zero_grad(set_to_none=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_step_seed(options.seed, step))  # dropout depends on the step alone
        logits = _logits(job, rows, job.train)
        loss = cross_entropy(logits, torch.from_numpy(job.train.labels[rows]))
        loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(job.parameters.values(), options.max_grad_norm)
    value = float(loss.detach())
    if not np.isfinite(value) or not np.isfinite(float(norm)):
        raise NumericalError(
            f"task {job.task!r}: expected a finite loss in step {step + 1} of {total}, "
            f"found loss {value} with gradient norm {float(norm)}",
            hint="Lower the learning rate, or use precision fp32",
        )
    optimizer.step()
    return value


def _consider(job: Job, state: State) -> None:
    found = evaluate(job, state.step)
    state.history.append(found)
    if found.beats(state.best):
        state.best, state.waited = found, 0
        state.best_weights = {name: p.detach().clone() for name, p in job.parameters.items()}
    else:
        state.waited += 1


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7], "little")
