"""What trying a member will take, from what trying others took."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from taskloom.runs.auto.ground import Ground, Sitting
from taskloom.runs.auto.portfolio import Member

#: what learns is thought to be so many times as dear as its examples, until something has learned
UNSURE = 3.0


@dataclass
class Costs:
    """Predicted seconds: a fixed price, and one for every example that is run.

    Single models and merges have a common price by example, that of the base, and a fixed price each,
    of making the weights and fitting a head; before one has been tried, the highest of any other. What
    learns has a price by example of its own, its training counted in examples (`Member.work`); before it
    has been tried, the highest of another that learns, or `UNSURE` times the common one.

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

    def finish(self, member: Member, share: float, *, made: bool) -> float:
        """Return seconds of the guard's check of a member and of its look at the test split.

        Parameters
        ----------
        made
            Whether it has been tried on that share.
        """
        return self.check(member, share, made=made) + self.hand(member, share)

    def check(self, member: Member, share: float, *, made: bool) -> float:
        """Return seconds of the guard's check of a member; ``made`` as in `finish`."""
        ground = self.ground
        sittings = ground.last(share)
        if ground.regime == "cross-validation":
            if not member.learns:
                return self.predict(member, rows_of(sittings))
            return self.predict(member, self._learning(member, sittings, share))
        seen, judged = len(sittings[0].seen), len(sittings[0].judged)
        if made or not member.learns:
            return self._once(member) + self.pace * (judged + (0 if made else seen))
        return self.predict(member, member.work(share, seen) + seen + judged)

    def hand(self, member: Member, share: float) -> float:
        """Return seconds of making a member that was checked anew, where it must be, and of its test.

        Of few labels what learns is fitted on all of them in the end.
        """
        tested = self.pace * self.ground.data.n_test
        if self.ground.regime == "cross-validation" and member.learns:
            final = len(self.ground.final(share))
            return self.predict(member, member.work(share, final) + final) + tested
        return tested

    def predict(self, member: Member, examples: float) -> float:
        """Return seconds for running so many examples of a member."""
        if not member.learns:
            return self._once(member) + self.pace * examples
        unknown = max(self._rates.values(), default=UNSURE * self.pace)
        return max(self._rates.get(member.name, unknown), self.pace) * examples

    def _once(self, member: Member) -> float:
        return self._fixed.get(member.name, max(self._fixed.values(), default=0.0))

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
