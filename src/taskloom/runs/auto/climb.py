"""The climb: everything on little, what is left on more, until one lot or the time is used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.progress import Progress
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.ladder import ETA, Rung, kept, ladder, most_halvings
from taskloom.runs.auto.looking import SHARE
from taskloom.runs.auto.portfolio import BASE, Member
from taskloom.runs.auto.purse import EXTRA, Purse
from taskloom.runs.auto.trials import Trial, attempt, read_trial
from taskloom.runs.auto.workbench import Workbench

#: single models that the guard needs, beside what wins
MUST = 3


@dataclass(eq=False)
class Tried:
    """A member's way: what it came to rung by rung, and why it went no further."""

    member: Member
    trials: list[Trial] = field(default_factory=list)
    dropped: str = ""

    @property
    def place(self) -> tuple[int, float]:
        """Sorts by rung reached, then score."""
        return (self.trials[-1].rung, self.trials[-1].value) if self.trials else (-1, 0.0)


@dataclass(frozen=True)
class Climbed:
    """A climb that has ended.

    Attributes
    ----------
    rungs
        As planned.
    reached
        How many of them were tried.
    share
        Of the examples, on the last of these.
    tried
        All members in the portfolio's order.
    ranked
        Those that were tried, the best first: by rung reached, by score there, by order.
    """

    rungs: tuple[Rung, ...]
    reached: int
    share: float
    tried: tuple[Tried, ...]
    ranked: tuple[Member, ...]


@dataclass(frozen=True)
class Climb:
    """Successive halving over members, within a budget.

    Attributes
    ----------
    bench, purse, costs, members
        What is tried, with what, and what it may take; the base first.
    eta
        One of so many goes on.
    """

    bench: Workbench
    purse: Purse
    costs: Costs
    members: Sequence[Member]
    progress: Progress
    eta: int = ETA

    def run(self) -> Climbed:
        """Climb.

        Raises
        ------
        PlanError
            The budget is too small for one evaluation beside the base's; the message names one that
            would do.
        """
        planned = self.purse.choose(["plan", [m.name for m in self.members]], self._plan)
        admitted = set(planned["admitted"])
        if len(admitted) < min(2, len(self.members)):
            raise self.purse.too_small(self._needed(self.members[:2]))
        rungs = ladder(
            len(admitted), int(planned["halvings"]), eta=self.eta, most=float(planned["most"])
        )
        tried = [Tried(member) for member in self.members]
        alive = [each for each in tried if each.member.name in admitted]
        for each in tried:
            each.dropped = "" if each in alive else "no time to try it"
        reached = 0
        for rung in rungs:
            alive = self._step(rung, alive)
            if not any(t.trials and t.trials[-1].rung == rung.number for t in alive):
                break
            reached = rung.number + 1
            if rung.number + 1 < len(rungs):
                alive = self._survivors(rungs, rung.number, alive)
                if not alive:
                    break
        if reached == len(rungs):
            rungs = self._go_on(rungs, tried)
            reached = len(rungs)
        ordered = sorted((t for t in tried if t.trials), key=lambda t: t.place, reverse=True)
        for each in ordered[1:]:
            each.dropped = each.dropped or f"{ordered[0].member.name} did as well or better"
        ordered[0].dropped = ""
        share = rungs[max(reached, 1) - 1].share
        return Climbed(rungs, reached, share, tuple(tried), tuple(t.member for t in ordered))

    def _plan(self) -> dict[str, Any]:
        """Choose the fewest halvings that the time allows.

        If the most are too dear, the climb ends on a third of the examples, and so on; if even the
        smallest share is too dear for all members, the dearest are left out, of equals the last.
        """
        least, members = self.bench.ground.least, list(self.members)
        while len(members) >= min(2, len(self.members)):
            most = 1.0
            while most >= least:
                room = self.purse.left - self._reserve(members, most)
                for halvings in range(most_halvings(len(members), least / most, eta=self.eta) + 1):
                    rungs = ladder(len(members), halvings, eta=self.eta, most=most)
                    if self._price(members, rungs) <= room:
                        names = [member.name for member in members]
                        return {"admitted": names, "halvings": halvings, "most": most}
                most /= self.eta
            prices = [self.costs.predict(m, self.costs.size(m, least)) for m in members[1:]]
            members.pop(1 + max(range(len(prices)), key=lambda place: (prices[place], place)))
        return {"admitted": [], "halvings": 0, "most": 0.0}

    def _price(self, members: Sequence[Member], rungs: Sequence[Rung]) -> float:
        """Return what rungs will take, if those that go on are as dear as the mean."""
        total, before = 0.0, 0.0
        for rung in rungs:
            each = [self.costs.predict(m, self.costs.size(m, rung.share, before)) for m in members]
            total += rung.count * sum(each) / len(each)
            before = rung.share
        return total

    def _reserve(self, members: Sequence[Member], share: float) -> float:
        """Return what the check and the test of base, best single model and winner will take."""
        dear = [self.costs.finish(m, share, made=True) for m in members]
        fresh = self.costs.finish(self.members[0], share, made=False)
        return (MUST - 1) * fresh + max(dear, default=0.0)

    def _needed(self, members: Sequence[Member]) -> float:
        """Return the least budget, of which looking at experts may take its share first."""
        least = self.bench.ground.least
        tried = sum(self.costs.predict(m, self.costs.size(m, least)) for m in members)
        return (self.purse.spent + tried + self._reserve(members, least)) / (1 - SHARE)

    def _go_on(self, rungs: tuple[Rung, ...], tried: Sequence[Tried]) -> tuple[Rung, ...]:
        """Use the time that is left when the plan was too careful; return the rungs there were.

        Prices that were only guessed are known by now. Who was left out joins the last rung, the
        cheapest first; then the best third goes on to three times the examples, and so on.
        """
        while True:
            rung = rungs[-1]
            late = [t for t in tried if not t.trials and not t.dropped.startswith("failed")]
            sizes = {t.member.name: self.costs.size(t.member, rung.share) for t in late}
            late.sort(key=lambda t: self.costs.predict(t.member, sizes[t.member.name]))
            for each in self._step(rung, late, late=True):
                each.dropped = ""
            alive = [t for t in tried if t.trials and t.trials[-1].rung == rung.number]
            rungs = (*rungs[:-1], replace(rung, count=len(alive)))
            share = rung.share * self.eta
            if share > 1 + 1e-9:
                return rungs
            higher = Rung(rung.number + 1, min(share, 1.0), max(1, len(alive) // self.eta))
            going = self._survivors((*rungs, higher), rung.number, alive)
            if not self._step(higher, going):
                return rungs
            rungs = (*rungs, higher)

    def _step(self, rung: Rung, alive: Sequence[Tried], *, late: bool = False) -> list[Tried]:
        """Try everybody on a rung, as long as there is time; return who was.

        What learns comes last, being the dearest; who is ``late`` comes in the order given.
        """
        done = []
        sittings = self.bench.ground.sittings(rung.share)
        label = f"rung {rung.number + 1}: {100 * rung.share:.0f} % of the examples"
        ordered = alive if late else sorted(alive, key=lambda t: t.member.learns)
        for number, each in enumerate(ordered):
            member = each.member
            before = each.trials[-1].share if each.trials else 0.0
            size = self.costs.size(member, rung.share, before)
            thought = self.costs.predict(member, size)
            begun = self.purse.choose(
                ["late" if late else "begin", rung.number, member.name],
                partial(self._may, thought, alive, member, rung.share),
            )
            if not begun:
                each.dropped = "no time to try it" if late else f"no time for rung {rung.number + 1}"
                continue
            step = self.purse.pay(
                ["try", rung.share, member.name, member.title],
                partial(self._attempt, member, sittings, rung.share),
            )
            self.costs.learn(member, size, float(step["seconds"]))
            self.progress(label, number + 1, len(alive))
            if "failed" in step:
                each.dropped = f"failed: {step['failed']}"
                continue
            each.trials.append(read_trial(self.bench, member, rung.number, rung.share, step))
            done.append(each)
        return [each for each in alive if each in done]

    def _may(self, needed: float, alive: Sequence[Tried], member: Member, share: float) -> bool:
        if member.name == BASE and not any(t.trials for t in alive):
            return True
        return needed <= self.purse.left - self._reserve([each.member for each in alive], share)

    def _attempt(self, member: Member, sittings: Any, share: float) -> dict[str, Any]:
        try:
            return attempt(self.bench, member, sittings, share)
        except (NumericalError, DataError, PlanError) as error:
            if member.name == BASE:
                raise
            return {"failed": " ".join(str(error).split()), EXTRA: 0.0}

    def _survivors(self, rungs: tuple[Rung, ...], number: int, alive: list[Tried]) -> list[Tried]:
        """Keep the best, no more than there is time for."""
        ordered = sorted(alive, key=lambda t: t.place, reverse=True)

        def choose() -> list[str]:
            going = ordered[: kept(len(ordered), rungs, number)]
            share, before = rungs[number + 1].share, rungs[number].share
            while going:
                members = [each.member for each in going]
                price = sum(self.costs.predict(m, self.costs.size(m, share, before)) for m in members)
                if price <= self.purse.left - self._reserve(members, share):
                    break
                going = going[:-1]
            return [each.member.name for each in going]

        names = self.purse.choose(["survivors", number], choose)
        allowed = kept(len(ordered), rungs, number)
        for place, each in enumerate(ordered):
            if each.member.name not in names:
                late = "no time to go on" if place < allowed else f"place {place + 1} of {len(ordered)}"
                each.dropped = f"{late} on rung {number + 1}"
        return [each for each in ordered if each.member.name in names]
