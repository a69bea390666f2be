"""The base fine-tuned on a target's few labels: what everything that is reused must beat.

It is judged as the others are, by cross-validation: for every fold the base is trained anew on the
labels outside it, under a head that was fitted to those alone. What was predicted is stashed fold by
fold; the weights of folds are thrown away.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.data import Examples, TaskData
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import train_expert
from taskloom.models.head import Head
from taskloom.registry import get
from taskloom.runs.auto.making import tuning_steps
from taskloom.runs.candidates import Candidate, read_all
from taskloom.runs.features import Reader
from taskloom.runs.heads import fold_of, head_for
from taskloom.runs.plan import Plan
from taskloom.runs.train import tune
from taskloom.runs.workspace import numeric_versions
from taskloom.store.open import open_checkpoint

Array = NDArray[Any]
#: parts that the few labels are dealt into
FOLDS = 5
#: said where the plan does without
LEFT_OUT = "fine-tuning the base on these labels was not tried: the plan says fine_tune: false"


@dataclass(frozen=True)
class Rival:
    """The base fine-tuned on all the labels.

    Attributes
    ----------
    candidate
        Its weights; called ``fine-tune:TASK``.
    head
        That it was trained under.
    held
        Predictions of models that did not see the example, (n,).
    """

    candidate: Candidate
    head: Head
    held: Array


def fine_tuned(reader: Reader, plan: Plan, data: TaskData, features: Array) -> Rival | None:
    """Fine-tune the base on a target's labels, and on the labels outside every fold.

    It trains as the pool's experts do, but for 30 to 60 steps unless the plan says how many, and keeps
    the weights that do best on the very labels, of which none can be spared.

    Parameters
    ----------
    features
        (n, D) of the base, train before validation.

    Returns
    -------
    Rival or None
        None where the plan does without.

    Raises
    ------
    DataError, NumericalError, OutputError
        As `taskloom.learn.train.train_expert`.
    """
    if not plan.fine_tune.targets:
        return None
    few = _Few(reader, plan, data, data.train.joined(data.validation), features)
    fold = fold_of(few.examples.labels, FOLDS, plan.seed)
    held = np.empty_like(few.examples.labels)
    numbers = np.unique(fold)
    for done, number in enumerate(numbers):
        out = fold == number
        held[out] = few.predicted(~out, out)
        reader.progress(f"fine-tune on {data.task.name}", done + 1, len(numbers) + 1)
    candidate, head = few.final()
    reader.progress(f"fine-tune on {data.task.name}", len(numbers) + 1, len(numbers) + 1)
    return Rival(candidate, head, held)


@dataclass(frozen=True, eq=False)
class _Few:
    reader: Reader
    plan: Plan
    data: TaskData
    examples: Examples
    features: Array

    def head(self, seen: NDArray[np.bool_]) -> Head:
        labels = self.examples.labels[seen]
        stash = self.reader.workspace
        return head_for(stash, self.data.task, self.features[seen], labels, seed=self.plan.seed)

    def options(self, count: int) -> TrainOptions:
        given = {"seed": self.plan.seed, "max_length": self.reader.options.max_length, **self.plan.train}
        return TrainOptions.parse({**given, "steps": self.plan.fine_tune.steps or tuning_steps(count)})

    def predicted(self, seen: NDArray[np.bool_], out: NDArray[np.bool_]) -> Array:
        """Return predictions for a fold, from the stash or from a model trained without it."""
        rows = np.flatnonzero(seen)
        present = np.unique(self.examples.labels[rows])
        if len(present) == 1:
            return np.full(int(out.sum()), present[0], dtype=self.examples.labels.dtype)
        head, options = self.head(seen), self.options(len(rows))
        stash = self.reader.workspace
        versions = numeric_versions(*_packages(options))
        key = [self.reader.how, self.data.digest, head.digest(), options.result_key(), rows.tolist()]
        key += [self.reader.options.precision, versions]
        known = stash.array("predictions", key)
        if known is None:
            known = self._run(head, options, rows, np.flatnonzero(out))
            stash.keep_array("predictions", key, known)
        return known

    def _run(self, head: Head, options: TrainOptions, seen: Array, out: Array) -> Array:
        reader = self.reader
        few = self.examples.take(seen)
        shown = few.inputs, few.labels
        with tempfile.TemporaryDirectory() as folder:
            trained = train_expert(
                reader.encoder.directory, head, shown, shown, options, cache=Path(folder)
            )
            base = open_checkpoint(reader.encoder.directory)
            features = reader.encoder.features(
                self.examples.take(out).inputs,
                weights=read_all(open_checkpoint(trained.directory, base=base)),
                batch_size=reader.options.batch_size,
                precision=reader.options.precision,
            )
        return head.predict(features)

    def final(self) -> tuple[Candidate, Head]:
        """Train on all labels, in the cache."""
        name, count = self.data.task.name, len(self.examples)
        head = self.head(np.ones(count, dtype=bool))
        split = replace(self.data, train=self.examples, validation=self.examples)
        trained = tune(self.reader, head, split, self.options(count))
        self.reader.workspace.count("fine-tunes", skipped=trained.cached)
        base = open_checkpoint(self.reader.encoder.directory)
        checkpoint = open_checkpoint(trained.directory, base=base)
        title = f"Base fine-tuned on {count} labels of {self.data.task.title}"
        weights = partial(read_all, checkpoint)
        digest = checkpoint.digest()
        return Candidate(f"fine-tune:{name}", "expert", title, digest, weights, name), head


def _packages(options: TrainOptions) -> list[str]:
    return [need for need in get("train", options.method).needs if need == "peft"]
