"""What a fit returns: a merging recipe with its numbers filled in, and how it got there."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskloom.errors import NumericalError


@dataclass(frozen=True)
class Step:
    """One step of a fit, as it is plotted.

    Attributes
    ----------
    step
        Counted from 1; 0 is the start.
    loss
        What is minimised, before the step's change.
    seconds
        Since the fit began.
    values
        Anything else that was measured, by name: ``loss TASK``, ``mean EXPERT``, ``validation``.
    """

    step: int
    loss: float
    seconds: float
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A recipe with its numbers filled in: ``taskloom.merge(base, experts, method, **options)``.

    Attributes
    ----------
    method
        A registered merging method.
    options
        Its options, as plain data.
    trace
        What was tried, in order.
    said
        Provenance: the objective, whether labels or test inputs were used, examples, seconds, ...
    """

    method: str
    options: Mapping[str, Any]
    trace: tuple[Step, ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> list[dict[str, float]]:
        """Return the trace as rows: ``step``, ``loss``, ``seconds``, then every value by name.

        >>> Fitted("average", {}, (Step(1, 0.5, 0.1, {"loss a": 0.5}),)).table()
        [{'step': 1, 'loss': 0.5, 'seconds': 0.1, 'loss a': 0.5}]
        """
        return [
            {"step": each.step, "loss": each.loss, "seconds": each.seconds, **each.values}
            for each in self.trace
        ]

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON-ready data; a number that is not finite is None."""
        rows = [{n: v if math.isfinite(v) else None for n, v in row.items()} for row in self.table()]
        return {
            "method": self.method,
            "options": dict(self.options),
            "said": dict(self.said),
            "trace": rows,
        }

    def csv(self) -> str:
        """Return the trace as CSV with a header; a value that a step lacks is empty.

        >>> print(Fitted("average", {}, (Step(1, 0.5, 0.1), Step(2, 0.25, 0.2, {"a": 1.0}))).csv())
        step,loss,seconds,a
        1,0.5,0.1,
        2,0.25,0.2,1.0
        """
        rows = self.table()
        names = list(dict.fromkeys(name for row in rows for name in row)) or ["step", "loss", "seconds"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class FitStopped(NumericalError):
    """A loss or gradient that is not finite stopped a fit.

    Attributes
    ----------
    fitted
        The recipe with the last good numbers, and the trace until then.
    """

    def __init__(self, message: str, fitted: Fitted, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fitted = fitted
