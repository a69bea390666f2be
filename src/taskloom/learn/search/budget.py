"""How long a search may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taskloom.errors import PlanError


@dataclass(frozen=True)
class Budget:
    """A number of evaluations, minutes of evaluating, or both: what is spent first ends the search.

    A candidate that was measured before counts as if it were measured now, in both, so that a search
    that was interrupted ends where one that was not does.

    Attributes
    ----------
    evaluations
        Candidates; None: as many as the minutes allow.
    minutes
        Added up over evaluations; None: no limit.

    Raises
    ------
    PlanError
        Too little for one evaluation, or no limit at all.
    """

    evaluations: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.minutes is None:
            raise PlanError("the search has no budget", hint="Give evaluations, minutes, or both")
        if self.evaluations is not None and self.evaluations < 1:
            raise PlanError(
                f"a budget of {self.evaluations} evaluations is too small for one",
                hint="Give 1 evaluation or more",
            )
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise PlanError(
                f"a budget of {self.minutes!r} minutes is too small for one evaluation, or no number",
                hint="Give a number of minutes above 0",
            )

    def spent(self, done: int, seconds: float, longest: float) -> bool:
        """Tell whether another evaluation, should it take as long as the longest, is out of bounds."""
        if self.evaluations is not None and done >= self.evaluations:
            return True
        return self.minutes is not None and seconds + longest > 60 * self.minutes

    def check_first(self, seconds: float) -> None:
        """Refuse a budget that the first evaluation has shown to be too small for it.

        Raises
        ------
        PlanError
            It took longer than all the minutes there are.
        """
        if self.minutes is not None and seconds > 60 * self.minutes:
            raise PlanError(
                f"a budget of {self.minutes:g} minutes is too small for one evaluation, which took "
                f"{seconds / 60:.3g}",
                hint="Give more minutes, or fewer examples",
            )
