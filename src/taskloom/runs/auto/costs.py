"""What trying a member will take, from what trying others took."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from taskloom.runs.auto.ground import Ground, Sitting
from taskloom.runs.auto.portfolio import Member


@dataclass
class Costs:
    """Predicted seconds: a fixed price, and one for every example that is run.

    Single models and merges have a common price by example, that of the base, and a fixed price each,
    of making the weights and fitting a head; before one has been tried, the highest of any other. What
    learns has a price by example of its own, its training counted in examples (`Member.work`); before it
    has been tried, the highest of another that learns, or the common one.

    Attributes
    ----------
    ground
        Whose examples are run.
    pace
        Seconds for an example.
    """

    ground: Ground
    pace: float = 0.0
    _fixed: dict[str, float] = field(default_factory=dict)
    _rates: dict[str, float] = field(default_factory=dict)

    def size(self, member: Member, share: float, before: float = 0.0) -> float:
        """Return the examples that are run to try a member on a share, ``before`` having been tried."""
        sittings = self.ground.sittings(share)
        if not member.learns:
            known = rows_of(self.ground.sittings(before)) if before else 0
            return float(rows_of(sittings) - known)
        return self._learning(member, sittings, share)

    def last(self, member: Member, share: float, *, made: bool) -> float:
        """Return the examples that the guard's check of a member runs, and the final model's test.

        Parameters
        ----------
        made
            Whether it has been tried on that share.
        """
        sittings, tested = self.ground.last(share), float(self.ground.data.n_test)
        if self.ground.regime == "cross-validation":
            if member.learns:
                final = len(self.ground.final(share))
                again = member.work(share, final) + final
                return self._learning(member, sittings, share) + again + tested
            return rows_of(sittings) + tested
        seen = len(sittings[0].seen)
        fresh = 0.0 if made else seen + member.work(share, seen)
        return fresh + len(sittings[0].judged) + tested

    def predict(self, member: Member, examples: float) -> float:
        """Return seconds for running so many examples of a member."""
        if member.learns:
            rate = self._rates.get(member.name, max(self._rates.values(), default=self.pace))
            return max(rate, self.pace) * examples
        fixed = self._fixed.get(member.name, max(self._fixed.values(), default=0.0))
        return fixed + self.pace * examples

    def learn(self, member: Member, examples: float, seconds: float) -> None:
        """Take in what trying a member took."""
        if member.learns:
            self._rates[member.name] = seconds / max(examples, 1.0)
        else:
            self._fixed[member.name] = max(0.0, seconds - self.pace * examples)

    def _learning(self, member: Member, sittings: list[Sitting], share: float) -> float:
        found = 0.0
        for sitting in sittings:
            seen = len(sitting.seen)
            found += member.work(share, seen) + seen + len(sitting.judged)
        return found


def rows_of(sittings: list[Sitting]) -> int:
    """Return how many rows occur in sittings."""
    return len(np.unique(np.concatenate([np.r_[each.seen, each.judged] for each in sittings])))
