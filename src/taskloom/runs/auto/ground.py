"""Which examples of the target fit, which choose, and which only check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples, TaskData
from taskloom.models.head import Head
from taskloom.runs.heads import fold_of
from taskloom.runs.seen import few_shot

Rows = NDArray[np.int64]
#: how members are held against one another
Regime = Literal["held out", "cross-validation", "unlabeled"]
#: folds of few labels
FOLDS = 3
#: fewest examples that a rung fits on, and that it chooses by, where there are as many
LEAST, LEAST_JUDGED = 16, 32


@dataclass(frozen=True)
class Sitting:
    """Rows that a member may be fitted on, and rows that it is judged by; none in common."""

    seen: Rows
    judged: Rows


@dataclass(frozen=True, eq=False)
class Ground:
    """The examples of a target, train before validation, and what each is for.

    Attributes
    ----------
    data
        The target; its test split is sealed.
    examples
        Train and validation together; without labels all labels are 0, so that nothing can use them.
    regime
        ``"held out"``: members are fitted on ``fit`` and chosen by ``search``. ``"cross-validation"``:
        few labels, or too few of them for validation to choose by one half and check by the other, so
        both are the same rows, and what is judged is what was left out of a fold.
        ``"unlabeled"``: as held out, by what predictions say of inputs, under a head that was given.
    fit, search
        Rows, in an order of which every beginning has about the shares of the classes.
    check
        Rows that choose nothing: the guard's.
    head
        Without labels: the head that was given.
    seed
        Of deals and orders.
    """

    data: TaskData
    examples: Examples
    regime: Regime
    fit: Rows
    search: Rows
    check: Rows
    head: Head | None
    seed: int

    @property
    def least(self) -> float:
        """Smallest share of the examples to fit on that a rung may take."""
        classes = len(np.unique(self.examples.labels[self.fit]))
        return min(1.0, max(LEAST, 2 * classes) / len(self.fit))

    def sittings(self, share: float) -> list[Sitting]:
        """Return who sees what and is judged by what, on a share of the examples.

        A share of the examples to choose by is `LEAST_JUDGED` at least, where there are as many: to fit
        is what costs, and a choice by very few is a draw.
        """
        fit = self._fitted(share)
        search = self.search[: max(math.ceil(share * len(self.search)), LEAST_JUDGED)]
        if self.regime == "cross-validation":
            return self._folded(np.array([], dtype=np.int64), fit)
        return [Sitting(fit, search)]

    def last(self, share: float) -> list[Sitting]:
        """Return the same for the guard: what is fitted is a share, what checks is all there is for it.

        Of few labels those that chose are seen in every fold, those that check outside the fold alone.
        """
        if self.regime == "cross-validation":
            return self._folded(self._fitted(share), self.check)
        return [Sitting(self._fitted(share), self.check)]

    def final(self, share: float) -> Rows:
        """Return rows that what is handed over is fitted on; few labels that checked are among them."""
        if self.regime == "cross-validation":
            return np.concatenate([self._fitted(share), self.check])
        return self._fitted(share)

    @property
    def folds(self) -> int:
        """Folds that the guard deals; 0 without."""
        return len(self.last(1.0)) if self.regime == "cross-validation" else 0

    def _fitted(self, share: float) -> Rows:
        return self.fit[: math.ceil(share * len(self.fit))]

    def _folded(self, always: Rows, rows: Rows) -> list[Sitting]:
        count = min(FOLDS, len(rows))
        fold = fold_of(self.examples.labels[rows], count, self.seed)
        return [
            Sitting(np.concatenate([always, rows[fold != number]]), rows[fold == number])
            for number in range(count)
        ]


def lay(data: TaskData, *, seed: int, head: Head | None = None) -> Ground:
    """Deal the examples of a target.

    Parameters
    ----------
    data
        Loaded.
    head
        Of the target: then no label is used.

    Raises
    ------
    DataError
        Too few labels or inputs to keep any apart for the guard; a head with other classes than the
        target's.
    """
    together = data.train.joined(data.validation)
    train = np.arange(len(data.train))
    validation = np.arange(len(data.train), len(together))
    if head is not None:
        _check_head(head, data)
        together = Examples(together.inputs, np.zeros(len(together), dtype=np.int64))
    labels = together.labels
    if head is None and (few_shot([data]) or len(validation) < 2 * LEAST_JUDGED):
        every = np.arange(len(together))
        search, check = halved(labels, every, seed)
        _check_room(data, search, check, least=2 * len(np.unique(labels)))
        fit, regime = search, "cross-validation"
    else:
        search, check = halved(labels, validation, seed)
        _check_room(data, search, check, least=2)
        fit, regime = nested(labels, train, seed), "held out" if head is None else "unlabeled"
    search = nested(labels, search, seed)
    if head is None:
        _check_classes(data, labels[search if regime == "cross-validation" else fit])
    fit = search if regime == "cross-validation" else fit
    return Ground(data, together, regime, fit, search, np.sort(check), head, seed)  # type: ignore[arg-type]


def nested(labels: NDArray[np.int64], rows: Rows, seed: int) -> Rows:
    """Order rows so that every beginning is a sample with the shares of the classes kept.

    One of every class comes first, so that a beginning of C rows has them all; the i-th of n others of
    a class stands at ``i / n`` of the way. Who of a class comes first is drawn.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> labels[nested(labels, np.arange(6), 0)].tolist()
    [0, 1, 0, 0, 1, 0]
    """
    rng = np.random.default_rng([seed, 1])
    place = np.empty(len(rows))
    for label in np.unique(labels[rows]):
        members = rng.permutation(np.flatnonzero(labels[rows] == label))
        place[members] = np.arange(len(members)) / len(members)
    return rows[np.lexsort((labels[rows], place))]


def halved(labels: NDArray[np.int64], rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Deal rows into two halves, each with about half of every class.

    >>> one, two = halved(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 0)
    >>> len(one), len(two), sorted([*one.tolist(), *two.tolist()])
    (3, 3, [0, 1, 2, 3, 4, 5])
    """
    rng = np.random.default_rng([seed, 2])
    halves: tuple[list[Rows], list[Rows]] = ([], [])
    turn = 0
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        halves[turn].append(members[::2])
        halves[1 - turn].append(members[1::2])
        turn = (turn + len(members)) % 2
    one, two = (np.concatenate(half) for half in halves)
    return one, two


def _check_room(data: TaskData, search: Rows, check: Rows, *, least: int) -> None:
    if min(len(search), len(check)) < least:
        raise DataError(
            f"task {data.task.name!r}: {len(search)} examples to choose by and {len(check)} to check "
            f"with are too few, expected {least} of each",
            hint="Label more examples, or give a larger validation split",
        )


def _check_classes(data: TaskData, labels: NDArray[np.int64]) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        name = data.task.label_names[present[0]]
        raise DataError(
            f"task {data.task.name!r}: all {len(labels)} labels to fit on and choose by are {name!r}, "
            "expected two classes or more beside those that are kept for the check",
            hint="Label more examples of the other classes",
        )


def _check_head(head: Head, data: TaskData) -> None:
    wanted = tuple(data.task.label_names)
    if head.labels != wanted:
        raise DataError(
            f"the head of {head.task!r} has the classes {', '.join(head.labels)}, and task "
            f"{data.task.name!r} has {', '.join(wanted)}",
            hint="Give a head that was fitted to this task's classes, in their order",
        )
