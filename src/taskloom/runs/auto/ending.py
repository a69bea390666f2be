"""The end: what is left against its rivals on examples that chose nothing, then one look at test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from taskloom.errors import TaskloomError
from taskloom.evaluation.score import Score, score
from taskloom.models.head import Head
from taskloom.runs.auto.climb import Climbed, Tried
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.portfolio import AVERAGE, BASE, TUNED, Member
from taskloom.runs.auto.purse import EXTRA, Purse
from taskloom.runs.auto.surety import surety_lead
from taskloom.runs.auto.trials import Trial, attempt, read_trial
from taskloom.runs.auto.workbench import Lot, Workbench
from taskloom.runs.candidates import Candidate
from taskloom.runs.judging import SIMPLER, Guarded, Judged, Kind, Mode, by_reason, judge
from taskloom.runs.targets import gain_interval

#: rung of the check
CHECK = -1
#: kinds of which every one is judged while there is time
RIVALS: tuple[Kind, ...] = ("base", "expert", "merge", "fine-tune")


@dataclass(frozen=True)
class Checked:
    """The check: who was in it, and who won.

    Attributes
    ----------
    trials
        Name -> what it came to on examples that chose nothing.
    kinds
        As they were judged.
    verdict
        The guard's, of labels; None without.
    winner, reason
        Who is handed over, and why in one sentence.
    absent
        Rivals that were not judged -> why not.
    """

    trials: Mapping[str, Trial]
    kinds: Mapping[str, Kind]
    verdict: Guarded | None
    winner: str
    reason: str
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Final:
    """A model as it is handed over, and what is still to be paid for it."""

    candidate: Candidate
    head: Head
    price: float = 0.0


@dataclass(frozen=True)
class Tested:
    """Scores on the test split, and the winner's gain over the base with its 95 % interval."""

    scores: tuple[Score, ...]
    gain: tuple[float, float, float] | None


def check(
    bench: Workbench,
    purse: Purse,
    costs: Costs,
    climbed: Climbed,
    mode: Mode,
    rivals: Sequence[Member] = (),
) -> Checked:
    """Judge the best of the climb against base, experts, average and fine-tune.

    The base, the best single model and the best that the climb found are judged whatever the time;
    others while there is time, those of the climb before ``rivals``, and of these the cheap ones first.
    Rivals that are not judged are named with the reason.

    Parameters
    ----------
    rivals
        Single models that did not climb.
    """
    late = sorted(rivals, key=lambda member: costs.finish(member, climbed.share, made=False))
    members = {each.member.name: each for each in (*climbed.tried, *map(Tried, late))}
    must, maybe = _field(climbed)
    maybe += [member.name for member in late]
    absent: dict[str, str] = {}
    trials: dict[str, Trial] = {}
    for name in [*must, *maybe]:
        each = members[name]
        done = [members[checked].member for checked in trials]
        if name in maybe and not _enough(bench, purse, costs, each, done, climbed.share):
            absent[name] = "there was no time left for it"
            continue
        step = purse.pay(
            ["check", climbed.share, name, each.member.title],
            partial(_checked, bench, each.member, climbed.share),
        )
        if "failed" in step:
            absent[name] = f"it failed: {step['failed']}"
            continue
        trials[name] = read_trial(bench, each.member, CHECK, climbed.share, step)
    for name, each in members.items():
        if each.member.kind in RIVALS and name not in trials and name not in absent:
            absent[name] = each.dropped
    kinds = _kinds(trials, members, climbed)
    if bench.ground.regime == "unlabeled":
        return _unlabeled(bench, trials, kinds, mode, absent)
    first = next(iter(trials.values()))
    judged = Judged(
        bench.ground.data.task.name,
        bench.ground.data.task.metric,
        bench.ground.examples.labels[first.rows],
        {name: trial.guesses for name, trial in trials.items()},
    )
    if len(kinds) == 1:
        reason = "the base is all that there was time to check"
        return Checked(trials, kinds, None, BASE, reason, absent)
    verdict = judge(
        [judged],
        kinds,
        mode=mode,
        split="cross-validation" if bench.ground.folds else "validation",
        folds=bench.ground.folds,
        seed=bench.ground.seed,
        absent=absent,
    )
    return Checked(trials, kinds, verdict, verdict.winner, verdict.reason, absent)


def _field(climbed: Climbed) -> tuple[list[str], list[str]]:
    """Return who must be judged, and who is judged while there is time, in order."""
    ranked = climbed.ranked

    def first(kind: Kind) -> list[str]:
        return [member.name for member in ranked if member.kind == kind][:1]

    must = dict.fromkeys([BASE, ranked[0].name, *first("expert"), *first("composition")])
    maybe = [AVERAGE, TUNED, *(member.name for member in ranked if member.kind == "expert")]
    known = {each.member.name for each in climbed.tried if not each.dropped.startswith("failed")}
    return list(must), [name for name in dict.fromkeys(maybe) if name in known - set(must)]


def _enough(
    bench: Workbench, purse: Purse, costs: Costs, each: Tried, done: Sequence[Member], share: float
) -> bool:
    """Tell whether there is time to check a rival, and then to hand over whoever is the dearest."""
    made = bool(each.trials) and each.trials[-1].share == share
    dearest = max(costs.hand(member, share) for member in [each.member, *done])
    tests = 2 * costs.pace * bench.ground.data.n_test
    needed = costs.check(each.member, share, made=made) + dearest + tests
    return purse.choose(["check", each.member.name, len(done)], lambda: bool(needed <= purse.left))


def _checked(bench: Workbench, member: Member, share: float) -> dict[str, Any]:
    try:
        return attempt(bench, member, bench.ground.last(share), share)
    except TaskloomError as error:
        if member.name == BASE:
            raise
        return {"failed": " ".join(str(error).split())}


def _kinds(
    trials: Mapping[str, Trial], members: Mapping[str, Tried], climbed: Climbed
) -> dict[str, Kind]:
    """Return kinds; where no composition is left, the best that the climb found stands for one."""
    kinds: dict[str, Kind] = {name: members[name].member.kind for name in trials}
    if "composition" not in kinds.values():
        for member in climbed.ranked:
            if member.name in kinds and member.name != BASE:
                kinds[member.name] = "composition"
                break
    return kinds


def _unlabeled(
    bench: Workbench,
    trials: Mapping[str, Trial],
    kinds: Mapping[str, Kind],
    mode: Mode,
    absent: Mapping[str, str],
) -> Checked:
    """Take the simplest model that none is surer than beyond chance; no accuracy is known."""
    order = sorted(trials, key=lambda name: SIMPLER.index(kinds[name]))
    best = max(order, key=lambda name: trials[name].value)
    taken = best
    if mode == "strict":
        for name in order:
            ours, theirs = trials[best].chances, trials[name].chances
            assert ours is not None
            assert theirs is not None
            lead, low, high = surety_lead(ours, theirs, seed=bench.ground.seed)
            if name == best or low <= 0:
                taken = name
                break
    n = trials[taken].n
    reason = f"{taken} is taken without labels: its surety is {trials[taken].value:.4f} on {n} inputs"
    if taken != best:
        reason += f", and the surest, {best}, leads by {lead:.4f} only (95 % {low:+.4f} to {high:+.4f})"
    reason += "; whether it is right more often was not measured, since no labels were used"
    for why, names in by_reason(absent).items():
        reason += f"; {names} not checked: {why}"
    return Checked(trials, kinds, None, taken, reason, absent)


def finish(bench: Workbench, member: Member, share: float = 1.0) -> Final:
    """Make a model on a share of all that may be seen."""
    rows = bench.ground.final(share)
    made = member.make(Lot(bench, rows, share))
    candidate = replace(made.candidate, name=member.name)
    return Final(candidate, made.head or bench.head(candidate, rows), made.price(bench.paid))


def look_at_test(
    bench: Workbench,
    purse: Purse,
    costs: Costs,
    checked: Checked,
    members: Mapping[str, Member],
    share: float,
) -> tuple[Final, Tested]:
    """Look at the test split once: the winner, the base, and, while there is time, the other rivals."""
    data, reader = bench.ground.data, bench.desk.reader
    each = costs.pace * data.n_test
    wanted = list(dict.fromkeys([checked.winner, BASE]))
    others = [
        name
        for name in checked.trials
        if name not in wanted and not (bench.ground.folds and members[name].learns)
    ]
    room = purse.choose(
        ["test", checked.winner],
        lambda: int(max(0.0, purse.left - each * len(wanted)) // max(each, 1e-9)),
    )
    wanted += others[:room]

    def run() -> dict[str, Any]:
        finals = {name: finish(bench, members[name], share) for name in wanted}
        features = reader.read([final.candidate for final in finals.values()], [data], "test")
        guesses = {
            name: final.head.predict(features[name, data.task.name]).tolist()
            for name, final in finals.items()
        }
        price = sum(final.price for final in finals.values())
        return {"guesses": guesses, "labels": reader.test_labels(data).tolist(), EXTRA: price}

    step = purse.pay(["test", share, [[name, members[name].title] for name in wanted]], run)
    labels = np.asarray(step["labels"], dtype=np.int64)
    guessed = {name: np.asarray(step["guesses"][name], dtype=np.int64) for name in wanted}
    metric, seed = data.task.metric, bench.ground.seed
    scores = tuple(
        score(labels, own, metric=metric, split="test", seed=seed, model=name, task=data.task.name)
        for name, own in guessed.items()
    )
    gain = None
    if checked.winner != BASE:
        gain = gain_interval(labels, guessed[checked.winner], guessed[BASE], metric=metric, seed=seed)
    return finish(bench, members[checked.winner], share), Tested(scores, gain)


def right_by_rung(
    climbed: Climbed, labels: np.ndarray[Any, np.dtype[np.int64]]
) -> list[dict[str, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """Return, rung by rung, which examples each member got right, for the bound on the regret."""
    found: list[dict[str, Any]] = [{} for _ in climbed.rungs]
    for each in climbed.tried:
        for trial in each.trials:
            found[trial.rung][trial.member] = trial.guesses == labels[trial.rows]
    return found


def sentence(checked: Checked, tested: Tested, members: Sequence[Member], target: str) -> str:
    """Say what is handed over for the target, and what it brings on the test split."""
    title = next(member.title for member in members if member.name == checked.winner)
    own = next(s for s in tested.scores if s.model == checked.winner)
    told = f"{own.metric} {100 * own.value:.1f} on {own.n} test examples"
    if tested.gain is None:
        return f"For {target} keep the base: nothing that was tried did better ({told})."
    gain, low, high = (100 * value for value in tested.gain)
    sure = "" if low > 0 or high < 0 else ", which may be chance"
    return (
        f"For {target} take {title}: {told}, {gain:+.1f} points against the base (95 % interval "
        f"{low:+.1f} to {high:+.1f}{sure})."
    )
