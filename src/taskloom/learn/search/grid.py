"""Every combination of given settings, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from taskloom.errors import PlanError
from taskloom.learn.search.drive import Candidate


class Grid:
    """All combinations, the last option's settings changing fastest; settings in rising order.

    No library is asked: optuna's own grid sampler cannot be asked and told (its issue 5141: it stops the
    study with an error after the last point), and shuffles.

    Parameters
    ----------
    settings
        Option -> values.
    fixed
        Options that stay as they are.

    Raises
    ------
    PlanError
        No option, or one without values.

    Examples
    --------
    >>> grid = Grid({"scale": [0.5, 0.1]}, {"density": 0.2})
    >>> grid.ask()
    {'density': 0.2, 'scale': 0.1}
    """

    def __init__(
        self, settings: Mapping[str, Sequence[float]], fixed: Mapping[str, Any] | None = None
    ) -> None:
        if not settings:
            raise PlanError("nothing is searched over", hint="Name an option and its settings")
        for option, values in settings.items():
            if not values:
                raise PlanError(f"option {option!r} has no settings to try", hint="Give one or more")
        ordered = [sorted(set(values)) for values in settings.values()]
        self._left: Iterator[Candidate] = (
            {**(fixed or {}), **dict(zip(settings, point, strict=True))} for point in product(*ordered)
        )

    def ask(self) -> Candidate | None:
        """Return the next combination, None after the last."""
        return next(self._left, None)

    def tell(self, loss: float) -> None:
        """Hear the loss; the grid stays what it is."""

    def recommend(self) -> None:
        """Take the best that was measured: of equals the first, so the smallest settings."""
