"""Accuracy of weights under a head, on a target's examples that are made ready once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.evaluation.data import Examples, TaskData
from taskloom.models.encoder import Encoder, Precision, autocast
from taskloom.models.head import Head
from taskloom.models.inputs import Batch
from taskloom.runs.plan import Evaluation

#: who opens the test splits
READER = "transfer"


class Exam:
    """Runs weights on one task, each under a head of its own, which `Scorer` of the claims cannot.

    Examples are tokenised and batched once. The test split is opened when something is first scored on
    it, and by this object alone.
    """

    def __init__(self, encoder: Encoder, data: TaskData, options: Evaluation) -> None:
        self._encoder, self._data, self._options = encoder, data, options
        self._ready: dict[str, tuple[list[Batch], NDArray[np.int64]]] = {}
        encoder.module.eval()

    def validation(self, weights: Mapping[str, Tensor], head: Head) -> float:
        """Return the accuracy on the validation examples."""
        if "validation" not in self._ready:
            self._make_ready("validation", self._data.validation)
        return self._accuracy("validation", weights, head, self._options.validation_precision)

    def test(self, weights: Mapping[str, Tensor], head: Head) -> float:
        """Return the accuracy on the test examples."""
        if "test" not in self._ready:
            self._make_ready("test", self._data.test.open(READER))
        return self._accuracy("test", weights, head, self._options.precision)

    def _make_ready(self, split: str, examples: Examples) -> None:
        encoded = self._encoder.encode(examples.inputs)
        order = np.argsort(-encoded.lengths, kind="stable")
        size = self._options.batch_size
        rows = [order[first : first + size] for first in range(0, len(order), size)]
        self._ready[split] = [encoded.batch(each) for each in rows], examples.labels[order]

    def _accuracy(
        self, split: str, weights: Mapping[str, Tensor], head: Head, precision: Precision
    ) -> float:
        batches, labels = self._ready[split]
        with torch.inference_mode(), autocast(precision):
            said = [head.predict(self._encoder.pooled(batch, weights).numpy()) for batch in batches]
        return float((np.concatenate(said) == labels).mean())
