"""What a loop works with: something that tunes a model on tasks, and something that scores one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.interval import paired_difference
from taskloom.evaluation.score import Score
from taskloom.lazy import Tensor
from taskloom.runs.loops.result import Gain, mean_gain
from taskloom.store.cache import canonical_digest

#: a model on disk, or weights in memory
Model = Path | Mapping[str, Tensor]


@dataclass(frozen=True)
class Tuned:
    """A model that was tuned, on disk.

    Attributes
    ----------
    path
        Its directory.
    steps
        Optimiser steps taken.
    value
        Mean validation score over the judging tasks of the weights that were kept.
    """

    path: Path
    steps: int
    value: float


@dataclass(frozen=True, eq=False)
class Reading:
    """A model's scores on validation, and labels and predictions (N,) by task where there are any."""

    scores: tuple[Score, ...]
    answers: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return sum(s.value for s in self.scores) / len(self.scores)

    def over(self, other: Reading, *, seed: int) -> tuple[Gain, ...]:
        """Return the gains over another model: paired by example, and the mean over tasks last."""
        metrics = {s.task: s.metric for s in self.scores}
        gains = [
            Gain(task, *paired_difference(labels, mine, other.answers[task][1], metrics[task], seed))
            for task, (labels, mine) in self.answers.items()
        ]
        return (*gains, mean_gain(gains)) if gains else ()


class Workshop(Protocol):
    """Where models are tuned and scored.

    A tuning that was finished is found again, one that was interrupted goes on.
    """

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are, in order."""
        ...

    def tune(
        self,
        start: Path,
        mix: Mapping[str, float],
        *,
        steps: int,
        seed: int,
        judges: Sequence[str] = (),
    ) -> Tuned:
        """Tune a copy of ``start`` on a mixture of tasks (shares of the steps by task).

        The weights after the last step are kept; with ``judges`` the best of several, by the mean
        validation score over these tasks.
        """
        ...

    def read(self, model: Model, tasks: Sequence[str] | None = None) -> Reading:
        """Score a model on the validation examples of tasks (all if None)."""
        ...

    def save_head(self, task: str, model: Path, folder: Path) -> None:
        """Write the head of a task for a model into ``folder``."""
        ...

    def probing(self) -> Workshop:
        """Return the same, with heads fitted anew on the features of whatever is tuned or scored."""
        ...

    def clear(self) -> None:
        """Remove what was tuned."""
        ...


def derived(seed: int, *words: Any) -> int:
    """Return the seed of one draw, keyed by what it is for and never by when it happens.

    >>> derived(0, "round", 1, "a") == derived(0, "round", 1, "a") != derived(0, "round", 2, "a")
    True
    """
    return int(canonical_digest([seed, *words])[:8], 16) % 2**31
