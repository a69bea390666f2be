"""Watches predictions for collapse: one class for everything, which is what entropy is fooled by."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from taskloom.learn.coefficients.blend import Blend
from taskloom.learn.problem import Problem

#: steps that are looked at, and the fewest predictions that say something
_STEPS, _FEWEST = 20, 16


class Watch:
    """Counts predicted classes by task over the last steps.

    Parameters
    ----------
    on
        False watches nothing: the outputs are no logits of classes.
    when
        What is watched, in words; the last steps if it is empty.
    """

    def __init__(self, on: bool = True, when: str = "") -> None:
        self._on, self._when = on, when
        self._seen: dict[str, deque[tuple[int, Counter[int]]]] = {}
        self._classes: dict[str, int] = {}

    def see(self, step: int, task: str, logits: Tensor) -> None:
        """Take note of a batch's predictions, ``(B, C)``."""
        if not self._on:
            return
        window = self._seen.setdefault(task, deque())
        if not window or window[-1][0] != step:
            window.append((step, Counter()))
        window[-1][1].update(logits.reshape(-1, logits.shape[-1]).argmax(-1).tolist())
        while window[0][0] <= step - _STEPS:
            window.popleft()
        self._classes[task] = logits.shape[-1]

    def state(self) -> dict[str, Any]:
        """Return what was seen, as JSON-ready data."""
        return {
            task: [self._classes[task], [[step, sorted(counts.items())] for step, counts in window]]
            for task, window in self._seen.items()
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for task, (classes, window) in state.items():
            self._classes[task] = classes
            self._seen[task] = deque((step, Counter(dict(map(tuple, pairs)))) for step, pairs in window)

    def shares(self, step: int) -> dict[str, float]:
        """Return the share of the most predicted class in a step, as ``largest class TASK``."""
        found = {}
        for task, window in self._seen.items():
            counts = window[-1][1]
            if window[-1][0] == step and counts:
                found[f"largest class {task}"] = max(counts.values()) / counts.total()
        return found

    def collapse(self) -> str:
        """Return which tasks get one class for everything, in words; empty if none does."""
        told = []
        for task, window in self._seen.items():
            counts: Counter[int] = sum((each for _, each in window), Counter())
            if len(counts) == 1 and counts.total() >= _FEWEST and self._classes[task] > 1:
                (number,) = counts
                when = self._when or f"of the last {len(window)} steps"
                told.append(
                    f"task {task!r}: all {counts.total()} predictions {when} are class {number} of "
                    f"{self._classes[task]}"
                )
        return "; ".join(told)


def kept_watch(on: Problem, blend: Blend, table: Tensor, passes: int) -> Watch:
    """Return what a table predicts that an earlier step left and that is kept.

    Parameters
    ----------
    blend
        Is at the table when this returns.
    table
        Coefficients, ``(K, G, P)``.
    passes
        Batches of every task in a step; as many batches are looked at as in the last steps of a fit.
    """
    watch = Watch(when="at the coefficients that are kept")
    blend.build(table)
    with torch.no_grad():
        for task, examples in on.batches.items():
            weights = blend.weights(task)
            for inputs, _ in islice(examples, _STEPS * passes):
                watch.see(0, task, on.probes[task].logits(inputs, weights))
    return watch
