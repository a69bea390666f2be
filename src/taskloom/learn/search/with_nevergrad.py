"""NGOpt and CMA-ES, by the package nevergrad."""

from __future__ import annotations

from typing import Any, Literal

from taskloom.learn.search.drive import Candidate
from taskloom.learn.search.outside import Aside, library
from taskloom.learn.search.space import Space

#: what NGOpt chooses for few evaluations between bounds
_FEW = "Cobyla"


class Nevergrad:
    """Nevergrad's CMA-ES, or NGOpt: its choice among optimisers, by the count of numbers and the budget.

    In nevergrad 1.0.12 NGOpt is COBYLA while there are few evaluations, which begins at the start and
    draws no random numbers, so that all seeds search alike. With more, some of its choices cannot be
    seeded (its issue 1572) or fail under numpy 2; its CMA-ES is taken instead.

    Some of its optimisers run in a thread of their own. The next candidate is asked for as soon as a
    loss is told, so that such a thread is at rest whenever other code runs.

    Parameters
    ----------
    space
        Every number in it has two ends.
    evaluations
        What the optimiser is chosen by; a search that is resumed with another number is another search.
    optimiser
        ``"cma"`` or ``"ngopt"``.
    seed
        Of the draws.

    Raises
    ------
    MissingExtra
        nevergrad is not installed.
    """

    def __init__(
        self,
        space: Space,
        *,
        evaluations: int,
        optimiser: Literal["cma", "ngopt"] = "ngopt",
        seed: int = 0,
    ) -> None:
        nevergrad = library("nevergrad", purpose="lorahub")
        self._space, self._aside = space, Aside(seed)
        with self._aside.here():
            known = nevergrad.optimizers

            def made(kind: Any) -> Any:
                numbers = nevergrad.p.Array(
                    init=space.start,
                    lower=[gene.low for gene in space.genes],
                    upper=[gene.high for gene in space.genes],
                )
                return kind(parametrization=numbers, budget=evaluations)

            self._optimiser: Any = made(known.NGOpt if optimiser == "ngopt" else known.CMA)
            if optimiser == "ngopt" and self.name != _FEW:
                self._optimiser = made(known.CMA)
            self._asked: Any = self._optimiser.ask()

    @property
    def name(self) -> str:
        """What nevergrad calls the optimiser that it chose."""
        return str(getattr(self._optimiser, "optim", self._optimiser).name)

    def ask(self) -> Candidate:
        """Return the next candidate."""
        return self._space.decode(self._asked.value)

    def tell(self, loss: float) -> None:
        """Hear the loss of the candidate that was asked for last."""
        with self._aside.here():
            self._optimiser.tell(self._asked, loss)
            self._asked = self._optimiser.ask()

    def recommend(self) -> None:
        """Take the best that was measured; nevergrad itself may name what never was."""
