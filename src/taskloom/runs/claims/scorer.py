"""Accuracy of weights on validation and test examples that are made ready once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.evaluation.data import Examples, TaskData
from taskloom.learn.probe import Examples as Batches
from taskloom.models.encoder import Encoder, Precision, autocast
from taskloom.models.head import Head
from taskloom.models.inputs import Batch
from taskloom.runs.plan import Evaluation
from taskloom.store.memory import MemoryCheckpoint

#: who opens the test splits
READER = "claims"


@dataclass(frozen=True)
class _Split:
    """Batches of similar length, and the labels in their order."""

    batches: Sequence[Batch]
    labels: NDArray[np.int64]


class Scorer:
    """Runs weights on the tasks of a suite, each under its head.

    Texts are tokenised and batched once; the test split of a task is opened when it is first scored,
    and by this object alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[TaskData],
        heads: Mapping[str, Head],
        options: Evaluation,
    ) -> None:
        self._encoder, self._heads, self._options = encoder, heads, options
        self._data = {data.task.name: data for data in tasks}
        self._validation: dict[str, _Split] = {}
        self._test: dict[str, _Split] = {}
        self._known: dict[tuple[str, str, str], float] = {}
        self._seen: tuple[Mapping[str, Tensor], str] | None = None
        encoder.module.eval()

    def validation(self, task: str, weights: Mapping[str, Tensor]) -> float:
        """Return the accuracy on the task's validation examples."""
        if task not in self._validation:
            self._validation[task] = self._ready(self._data[task].validation)
        precision = self._options.validation_precision
        return self._accuracy(self._validation[task], self._heads[task], weights, precision)

    def test(self, task: str, weights: Mapping[str, Tensor], head: Head | None = None) -> float:
        """Return the accuracy on the task's test examples; equal weights are run once.

        ``head`` in place of the task's own, for models that bring one.
        """
        split, head = self._opened(task), head or self._heads[task]
        key = task, head.digest(), self._digest(weights)
        if key not in self._known:
            self._known[key] = self._accuracy(split, head, weights, self._options.precision)
        return self._known[key]

    def examples(self, task: str) -> Batches:
        """Return the task's test examples in batches, for what is more than weights."""
        split, first, found = self._opened(task), 0, []
        for batch in split.batches:
            count = len(next(iter(batch.values())))
            found.append((batch, torch.from_numpy(split.labels[first : first + count])))
            first += count
        return Batches.of(found)

    def _opened(self, task: str) -> _Split:
        if task not in self._test:
            self._test[task] = self._ready(self._data[task].test.open(READER))
        return self._test[task]

    def _digest(self, weights: Mapping[str, Tensor]) -> str:
        """Return the digest of weights, which several tasks in a row are given."""
        if self._seen is None or self._seen[0] is not weights:
            self._seen = weights, MemoryCheckpoint(weights).digest()
        return self._seen[1]

    def n_test(self, task: str) -> int:
        """Return how many test examples the task has."""
        return self._data[task].n_test

    def _ready(self, examples: Examples) -> _Split:
        encoded = self._encoder.encode(examples.inputs)
        order = np.argsort(-encoded.lengths, kind="stable")
        size = self._options.batch_size
        rows = [order[first : first + size] for first in range(0, len(order), size)]
        return _Split([encoded.batch(each) for each in rows], examples.labels[order])

    def _accuracy(
        self, split: _Split, head: Head, weights: Mapping[str, Tensor], precision: Precision
    ) -> float:
        with torch.inference_mode(), autocast(precision):
            said = [
                head.predict(self._encoder.pooled(batch, weights).numpy()) for batch in split.batches
            ]
        return float((np.concatenate(said) == split.labels).mean())
