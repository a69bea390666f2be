"""The time there is, what has been paid of it, and what it was paid for.

What was paid for is written down with its price at once, under a digest of all that decides it, and so
is every choice that hung on the clock: a run that was interrupted pays nothing twice, and goes on with
the choices that it made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from taskloom.errors import PlanError
from taskloom.learn.search.budget import Budget
from taskloom.progress import Progress, silent
from taskloom.runs.workspace import Workspace

T = TypeVar("T")
Clock = Callable[[], float]

#: what a step may add to its price: seconds of work that was found done in a cache
EXTRA = "cached seconds"


class Purse:
    """Minutes, and a ledger of what they went for.

    Parameters
    ----------
    minutes
        From the start of the call to the verdict.
    workspace
        Where steps and choices are kept.
    context
        JSON-ready: what decides every step, such as models, data and seed.
    clock
        Seconds, rising.

    Attributes
    ----------
    seconds, spent
        What there was, and what is gone of it.
    paid
        Called after every step.

    Raises
    ------
    PlanError
        Minutes that are no number above 0.
    """

    def __init__(
        self,
        minutes: float,
        workspace: Workspace,
        context: Any,
        *,
        clock: Clock = time.monotonic,
        progress: Progress = silent,
    ) -> None:
        Budget(minutes=minutes)
        self.seconds = 60.0 * minutes
        self.spent = 0.0
        self._workspace, self._context = workspace, context
        self._clock, self._progress = clock, progress
        self.paid: Callable[[], None] = lambda: None

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 if the last step took longer than it was thought to."""
        return self.seconds - self.spent

    def pay(self, key: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step, or take what it came to from the ledger; either way its price is paid.

        Parameters
        ----------
        key
            What tells it from other steps; JSON-ready.
        work
            Returns plain JSON data.

        Returns
        -------
        dict
            With ``seconds``, the price.
        """

        def done() -> dict[str, Any]:
            begun = self._clock()
            found = work()
            seconds = self._clock() - begun + float(found.pop(EXTRA, 0.0))
            return {**found, "seconds": seconds}

        step = self._workspace.remember("steps", [self._context, key], done)
        self.paid()
        self.spent += float(step["seconds"])
        self._progress("seconds of the budget", min(self.spent, self.seconds), self.seconds)
        return step

    def choose(self, key: Any, work: Callable[[], T]) -> T:
        """Make a choice that hangs on the clock, or return the one that was made; JSON data."""
        return self._workspace.remember("choices", [self._context, self.seconds, key], work)

    def too_small(self, needed: float) -> PlanError:
        """Return the error of a budget that cannot do what it must, naming one that would."""
        return PlanError(
            f"a budget of {self.seconds / 60:g} minutes is too small: {self.spent:.1f} seconds are "
            "spent, and one evaluation of a model beside the base, with the check of both, would take "
            f"{needed:.1f} in all",
            hint=f"Give {_rounded_up(needed / 60)} minutes or more, or fewer examples",
        )


def _rounded_up(minutes: float) -> str:
    """Return a number of minutes that is a tenth more, so that it would do; two digits.

    >>> _rounded_up(3.2), _rounded_up(0.0123)
    ('3.6', '0.014')
    """
    from decimal import ROUND_CEILING, Decimal

    wanted = Decimal(repr(minutes * 1.1))
    place = Decimal(1).scaleb(wanted.adjusted() - 1)
    return f"{wanted.quantize(place, rounding=ROUND_CEILING).normalize():f}"
