"""``taskloom.auto``: pool, target and minutes in; the model that does best on the target out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.learn.options import TrainOptions
from taskloom.learn.search.budget import Budget
from taskloom.models.head import Head, head_names
from taskloom.progress import Progress, silent
from taskloom.runs.auto.bound import regret_bound
from taskloom.runs.auto.climb import Climb, Climbed
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.ending import Checked, Tested, check, look_at_test, right_by_rung, sentence
from taskloom.runs.auto.ground import lay
from taskloom.runs.auto.handing import hand_winner
from taskloom.runs.auto.ladder import ETA
from taskloom.runs.auto.looking import calibrate, left_out, look
from taskloom.runs.auto.page import write_page
from taskloom.runs.auto.portfolio import (
    Member,
    Wishes,
    check_methods,
    check_names,
    portfolio,
    rivals,
)
from taskloom.runs.auto.purse import Clock, Purse
from taskloom.runs.auto.report import AutoReport, Point, Row
from taskloom.runs.auto.trials import Trial
from taskloom.runs.auto.workbench import Workbench
from taskloom.runs.claims.suitable import Have
from taskloom.runs.desk import Sources, by_name_or_order, open_desk
from taskloom.runs.judging import Mode, check_mode
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.workspace import Workspace
from taskloom.store.atomic import write_json
from taskloom.store.pool import Pool, open_pool


def auto(
    target: str,
    base: str,
    experts: Sources,
    *,
    minutes: float = 5.0,
    output: str | Path | None = None,
    labels: int | None = None,
    head: str | Path | None = None,
    parts: bool = False,
    methods: Sequence[str] | None = None,
    tune: Mapping[str, Any] | None = None,
    guard: Mode = "strict",
    eta: int = ETA,
    limits: Limits | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    progress: Progress = silent,
    clock: Clock = time.monotonic,
) -> AutoReport:
    """Try what could help a target within a time, and hand over what does.

    Experts are ranked on few examples; then a portfolio (base, experts, average, fine-tunes, merges,
    fits; see ``docs/auto.md`` for the list and its order) climbs by successive halving: everything on a
    small share of the examples, the best third on three times as much. What is left is held against
    base, experts, average and fine-tune on examples that chose nothing, and the winner, which may be any
    of these, is written with its head. The test split is opened once, after that.

    Costs are measured while running, and the time that is left decides the rungs and who is tried on
    them. These choices are written down in the run folder, as is everything that was measured: the
    same call into the same folder resumes a run that was interrupted, and ends as it would have ended.

    Parameters
    ----------
    target
        Registered task, or path of an annotation.
    base
        Directory or hub id the experts were tuned from.
    experts
        Directories, hub ids or adapters of one base, in order or by name.
    minutes
        From the first model that is run to the verdict and the look at test. A step is not begun if it
        would not fit, so the time is exceeded by less than one step, by which a guess can be wrong.
    output
        Run folder; ``runs/auto-TARGET`` if None.
    labels
        Labelled examples of the target that may be used, in total; None: all within the limits. 0: none,
        and members are chosen by how sure and how different their predictions are.
    head
        For ``labels=0``: a model directory with a head for the target; else an expert's that has one.
    parts
        Also try methods that keep a part per task, for the expert that is ranked first.
    methods
        Merging and fitting methods by name, and ``"fine-tune"``: only these are tried, beside base,
        experts and average.
    tune
        Options of the fine-tunes, see `taskloom.learn.options.TrainOptions`.
    guard
        ``"strict"``: whoever wins the check is handed over; ``"warn"``: the best composition.
    eta
        One of so many goes on to the next rung.
    limits
        Most examples of each split; the plan's defaults if None.
    evaluation
        How models are run; the plan's defaults if None.
    seed
        Of every draw.
    clock
        Returns seconds.

    Returns
    -------
    AutoReport
        Also in ``result.json`` of the run folder, beside ``report.html``, ``rungs.svg`` and
        ``handover/``.

    Raises
    ------
    PlanError, UnknownName
        A budget too small for one evaluation beside the base's (the message names one that would do),
        a method or option that does not exist or cannot be tried, an expert of a taken name.
    DataError
        A target without inputs, too few labels to keep any apart, a head of other classes, no head
        without labels.
    CheckpointError
        Experts of different bases, or what is no model.
    OutputError
        The folder cannot be written, or another run is writing into it.
    """
    Budget(minutes=minutes)
    _check(eta, guard, labels, head)
    check_methods(methods)
    given = dict(tune or {})
    TrainOptions.parse(given)
    sizes = limits or Limits()
    desk = open_desk(base, seed=seed, progress=progress, options=evaluation)
    sources, names = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=names)
    check_names(pool)
    data, arguments = load_target(target, labels, sizes, seed, progress)
    ground = lay(data, seed=seed, head=_head(head, pool, data) if labels == 0 else None)
    folder = Path(output) if output is not None else Path("runs") / f"auto-{data.task.name}"
    workspace = Workspace(folder)
    with workspace.exclusive():
        here = replace(desk, reader=replace(desk.reader, workspace=workspace))
        bench = Workbench(here, pool, ground, given)
        purse = Purse(minutes, workspace, [bench.digest, eta], clock=clock, progress=progress)
        purse.paid = bench.readings.keep
        have: Have = "unlabeled" if labels == 0 else "labels"
        wishes = Wishes(have, parts, None if methods is None else tuple(methods), seed)
        report = _run(bench, purse, wishes, guard, eta, progress, folder, target, arguments)
        write_json(folder / "result.json", plain(report))
        write_page(report)
    return report


def _check(eta: int, guard: str, labels: int | None, head: str | Path | None) -> None:
    if eta < 2:
        raise PlanError(f"eta is {eta}, and of so many one goes on", hint="Give 2 or more")
    check_mode(guard)
    if labels is not None and labels < 0:
        raise PlanError(f"labels is {labels}", hint="Give how many may be used, 0 for none")
    if head is not None and labels != 0:
        raise PlanError("a head is given, and labels to fit one", hint="Give labels=0 with it")


def _run(
    bench: Workbench,
    purse: Purse,
    wishes: Wishes,
    guard: Mode,
    eta: int,
    progress: Progress,
    folder: Path,
    target: str,
    arguments: dict[str, int | None],
) -> AutoReport:
    costs = Costs(bench.ground)
    calibrate(bench, purse, costs)
    ranked, unseen = look(bench, purse, costs)
    members = portfolio(bench.pool, ranked, wishes)
    late = rivals(bench.pool, ranked, members, wishes)
    climbed = Climb(bench, purse, costs, members, progress, eta).run()
    checked = check(bench, purse, costs, climbed, guard, late)
    by_name = {member.name: member for member in (*members, *late)}
    final, tested = look_at_test(bench, purse, costs, checked, by_name, climbed.share)
    ground, task = bench.ground, bench.ground.data.task
    told = sentence(checked, tested, [*members, *late], task.name)
    model = hand_winner(
        bench, final, tested, folder, source=target, arguments=arguments, headline=told,
        reason=checked.reason,
    )  # fmt: skip
    regret = None
    if ground.regime != "unlabeled":
        regret = regret_bound(climbed.ranked[0].name, right_by_rung(climbed, ground.examples.labels))
    return AutoReport(
        target=task.name,
        metric=task.metric,
        base=bench.desk.reader.encoder.directory.name,
        experts=bench.pool.names,
        minutes=purse.seconds / 60,
        seconds=purse.spent,
        regime=ground.regime,
        sizes=_sizes(bench),
        eta=eta,
        rungs=climbed.rungs,
        reached=climbed.reached,
        ranked=tuple(ranked),
        unseen=tuple(unseen),
        rows=_rows(climbed, late, checked),
        winner=checked.winner,
        title=by_name[checked.winner].title,
        reason=checked.reason,
        sentence=told,
        verdict=checked.verdict,
        tests=tested.scores,
        gain=tested.gain,
        regret_bound=regret,
        notes=_notes(bench, purse, climbed, checked, tested, unseen),
        path=folder,
        model=model,
        page=folder / "report.html",
        picture=folder / "rungs.svg",
    )


def load_target(
    target: str, labels: int | None, sizes: Limits, seed: int, progress: Progress
) -> tuple[TaskData, dict[str, int | None]]:
    """Load the target, and say with which arguments, so that its test examples are found again."""
    arguments: dict[str, int | None] = {"max_test": sizes.test}
    if labels:
        arguments |= {"n_labels": labels}
    else:
        arguments |= {"max_train": sizes.train, "max_validation": sizes.validation}
    data = load_task(target, seed=seed, progress=progress, **arguments)
    return data, {"seed": seed, **arguments}


def _head(given: str | Path | None, pool: Pool, data: TaskData) -> Head:
    """Return the head that was given, or that of the one expert that has one for the target."""
    name = data.task.name
    if given is not None:
        return Head.load(given, name)
    folders = [getattr(expert.checkpoint, "path", None) for expert in pool.experts]
    for folder in folders:
        if folder is not None and name in head_names(folder):
            return Head.load(folder, name)
    raise DataError(
        f"task {name!r}: without labels a head for it must be there, and no expert has one",
        hint="Give a model directory with heads/ for the task (--head), or some labels",
    )


def _sizes(bench: Workbench) -> dict[str, int]:
    ground = bench.ground
    chosen = {"to choose by": len(ground.search), "to check with": len(ground.check)}
    fit = {} if ground.regime == "cross-validation" else {"to fit on": len(ground.fit)}
    return {**fit, **chosen, "test": ground.data.n_test}


def _rows(climbed: Climbed, late: Sequence[Member], checked: Checked) -> tuple[Row, ...]:
    found = []
    for each in climbed.tried:
        member, trial = each.member, checked.trials.get(each.member.name)
        said = trial.said if trial is not None else each.trials[-1].said if each.trials else {}
        found.append(
            Row(
                member.name,
                member.kind,
                member.title,
                tuple(_point(trial) for trial in each.trials),
                None if trial is None else _point(trial),
                each.dropped,
                said,
            )
        )
    for member in late:
        name, trial = member.name, checked.trials.get(member.name)
        point = None if trial is None else _point(trial)
        why = checked.absent.get(name, "only in the check")
        said = {} if trial is None else trial.said
        found.append(Row(name, member.kind, member.title, (), point, why, said))
    return tuple(found)


def _point(trial: Trial) -> Point:
    return Point(trial.rung, trial.share, trial.value, trial.low, trial.high, trial.n, trial.seconds)


def _notes(
    bench: Workbench,
    purse: Purse,
    climbed: Climbed,
    checked: Checked,
    tested: Tested,
    unseen: Sequence[str],
) -> tuple[str, ...]:
    found = []
    if purse.left < 0:
        found.append(f"The budget was exceeded by {-purse.left:.1f} seconds, within the last step.")
    late = [each.member.name for each in climbed.tried if each.dropped.startswith("no time")]
    if late:
        found.append(f"There was no time to go on with {', '.join(late)}.")
    if climbed.share < 1.0:
        found.append(
            f"The time was enough for {100 * climbed.share:.0f} % of the examples to fit on; what is "
            "handed over has seen no more."
        )
    if unseen:
        found.append(f"There was no time to look at the experts {', '.join(unseen)}.")
    without = left_out(bench)
    if without:
        found.append(
            f"The experts were ranked without {', '.join(without)}, which needs two labels of every "
            "class, and a class has one among those that were looked at."
        )
    failed = [f"{e.member.name} ({e.dropped})" for e in climbed.tried if e.dropped.startswith("failed")]
    if failed:
        found.append(f"Could not be tried: {'; '.join(failed)}.")
    for each in climbed.tried:
        said = each.trials[-1].said if each.trials else {}
        told = said.get("collapse") or said.get("collapsed")
        if told:
            found.append(f"{each.member.name}: {told}.")
    if climbed.ranked[0].name != checked.winner:
        found.append(f"The climb ended with {climbed.ranked[0].name}; the check took {checked.winner}.")
    if bench.ground.regime == "unlabeled":
        found.append("No label was used: surety says how sure and how different predictions are.")
    if tested.gain is not None and tested.gain[2] < 0:
        found.append("On the test split the base is better than what was chosen.")
    return tuple(found)


def plain(report: AutoReport) -> dict[str, Any]:
    """Return a report as JSON-ready data; paths as they are written."""
    from dataclasses import asdict

    def json_ready(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): json_ready(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [json_ready(item) for item in value]
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, np.generic):
            return value.item()
        return value

    return dict(json_ready(asdict(report)))
