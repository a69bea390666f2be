"""What a member comes to: made on what may be seen, run on what judges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.score import score
from taskloom.runs.auto.ground import Sitting
from taskloom.runs.auto.portfolio import Member
from taskloom.runs.auto.purse import EXTRA
from taskloom.runs.auto.surety import surety, surety_interval
from taskloom.runs.auto.workbench import Lot, Workbench

#: digits of probabilities that are written down
_DIGITS = 6


@dataclass(frozen=True)
class Trial:
    """What a member came to on a rung, or in the guard's check.

    Attributes
    ----------
    member
        Name.
    rung
        From 0; -1 for the check.
    share
        Of the examples.
    value, low, high, n
        Score (surety without labels) with its 95 % interval, on n examples.
    seconds
        Of making and running it.
    rows, guesses
        Which examples judged, and the class that each was given, (n,).
    chances
        Without labels: class probabilities, (n, C).
    said
        What a fit says of itself.
    """

    member: str
    rung: int
    share: float
    value: float
    low: float
    high: float
    n: int
    seconds: float
    rows: NDArray[np.int64] = field(repr=False)
    guesses: NDArray[np.int64] = field(repr=False)
    chances: NDArray[np.float64] | None = field(default=None, repr=False)
    said: dict[str, str] = field(default_factory=dict)


def attempt(
    bench: Workbench, member: Member, sittings: Sequence[Sitting], share: float
) -> dict[str, Any]:
    """Make a member and run it, for every sitting; return plain data for the ledger."""
    rows: list[int] = []
    chances: list[NDArray[np.float64]] = []
    cached, said, keys = 0.0, {}, []
    for sitting in sittings:
        lot = Lot(bench, sitting.seen, share)
        made = member.make(lot)
        if bench.ground.head is None:
            both = np.concatenate([sitting.seen, sitting.judged])
            bench.readings.features(made.candidate, both)  # the weights are made once
        head = made.head or bench.head(made.candidate, sitting.seen)
        chances.append(head.probabilities(bench.readings.features(made.candidate, sitting.judged)))
        rows += sitting.judged.tolist()
        cached += made.price(bench.paid)
        keys += [made.key] if made.key else []
        said = dict(made.said or {})
        if member.learns:
            bench.readings.forget(made.candidate)
    together = np.concatenate(chances)
    found: dict[str, Any] = {
        "rows": rows,
        "guesses": together.argmax(1).tolist(),
        "said": said,
        "paid": keys,
        EXTRA: cached,
    }
    if bench.ground.regime == "unlabeled":
        found["chances"] = together.round(_DIGITS).tolist()
    return found


def read_trial(bench: Workbench, member: Member, rung: int, share: float, step: dict[str, Any]) -> Trial:
    """Score what the ledger holds of an attempt, and note which fits it has paid for."""
    ground = bench.ground
    bench.paid.update(step["paid"])
    rows, guesses = (np.asarray(step[key], dtype=np.int64) for key in ("rows", "guesses"))
    if "chances" in step:
        chances = np.asarray(step["chances"], dtype=np.float64)
        ends = surety_interval(chances, seed=ground.seed)
        found = (surety(chances), *ends, len(rows))
    else:
        chances = None
        split = "cross-validation" if ground.regime == "cross-validation" else "validation"
        s = score(
            ground.examples.labels[rows],
            guesses,
            metric=ground.data.task.metric,
            split=split,  # type: ignore[arg-type]
            seed=ground.seed,
        )
        found = (s.value, s.low, s.high, s.n)
    return Trial(
        member.name, rung, share, *found, float(step["seconds"]), rows, guesses, chances, step["said"]
    )
