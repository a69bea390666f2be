"""The Pareto front of a search over several tasks: its rows, and the axes it is drawn over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.errors import PlanError, nearest
from taskloom.learn.fitted import Fitted, Step
from taskloom.learn.search.fit import flatten

#: of a step: whether it is on the front, and what comes before a task in the names of its losses
FRONT, LOSS = "front", "loss "


@dataclass(frozen=True)
class OnFront:
    """One candidate that no other beats on every task at once.

    Attributes
    ----------
    evaluation
        Its number in the search, from 1.
    losses
        By task, in the tasks' order.
    loss
        What the search makes smaller: the losses by the preference, and a penalty.
    chosen
        Whether it is the recipe that was taken.
    """

    evaluation: int
    losses: tuple[float, ...]
    loss: float
    chosen: bool


def front_of(fitted: Fitted) -> list[OnFront]:
    """Return the front of a search by rising loss on the first task; equal losses make one row.

    Empty where the trace knows no front: of one task, or of a fit that is no search. What was chosen
    need not be on it: a penalty, or a preference that leaves a task out, can lead elsewhere.
    """
    taken = flatten(fitted.options)
    chosen = next((s for s in fitted.trace if taken.items() <= s.values.items()), None)
    found: dict[tuple[float, ...], OnFront] = {}
    for step in fitted.trace:
        if step.values.get(FRONT):
            losses = tuple(value for name, value in step.values.items() if name.startswith(LOSS))
            if losses not in found or step is chosen:
                found[losses] = OnFront(step.step, losses, step.loss, step is chosen)
    return [found[losses] for losses in sorted(found)]


def tasks_of(step: Step) -> tuple[str, ...]:
    """Return the tasks whose losses a step has, in order."""
    return tuple(name.removeprefix(LOSS) for name in step.values if name.startswith(LOSS))


def axes_of(tasks: Sequence[str], x: str | None = None, y: str | None = None) -> tuple[str, str]:
    """Return the two tasks that a front is drawn over; the first ones that are left if not named.

    >>> axes_of(["a", "b", "c"]), axes_of(["a", "b", "c"], x="b"), axes_of(["a", "b", "c"], y="a")
    (('a', 'b'), ('b', 'a'), ('b', 'a'))

    Raises
    ------
    PlanError
        Fewer than two tasks, a name that is none of them, or one task twice.
    """
    if len(tasks) < 2:
        raise PlanError(
            "a front is drawn over two tasks, and there is one", hint="Leave x and y out, or add a task"
        )
    for axis, name in (("x", x), ("y", y)):
        if name is not None and name not in tasks:
            guess = nearest(name, tasks)
            did = f"did you mean {guess!r}? " if guess else ""
            raise PlanError(f"the axis {axis} is {name!r}: {did}Tasks: {', '.join(tasks)}")
    if x is not None and x == y:
        raise PlanError(f"both axes are {x!r}", hint="Name two tasks, or one of them only")
    across = x or next(task for task in tasks if task != y)
    return across, y or next(task for task in tasks if task != across)
