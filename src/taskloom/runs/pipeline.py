"""``taskloom.run``: a plan in, a checked model and a report out.

Stages: read the tasks, fit one head per task on frozen base features, train what experts are missing,
choose merging options on validation, apply the guard on validation and on few labels, and only then open
the test splits, hand over and report. Every piece is stashed by the digest of what went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.choose.task_vectors import cosine_matrix
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.evaluation.score import score
from taskloom.learn.options import TrainOptions
from taskloom.merging.recipe import Recipe
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs import ledger, results
from taskloom.runs.base import base_directory, base_title
from taskloom.runs.batchnorm import check_batch_norm
from taskloom.runs.beside import of_plan
from taskloom.runs.candidates import (
    Candidate,
    by_name,
    merge_digest,
    merged,
    pool_digest,
    singles,
)
from taskloom.runs.features import Array, Reader, Split
from taskloom.runs.guarding import AVERAGE
from taskloom.runs.handover import hand_over
from taskloom.runs.heads import head_for
from taskloom.runs.judging import Judged, Mode, check_mode, table_of, with_leads
from taskloom.runs.known import front_of
from taskloom.runs.lock import make_lock
from taskloom.runs.plan import Limits, Plan, load_plan
from taskloom.runs.result import GuardRecord, HandoverRecord, RunResult, ScoreRecord
from taskloom.runs.snippets import Reproduction, card
from taskloom.runs.sweep import Bench, prepare_merges
from taskloom.runs.targets import FewShot, conclude, prepare
from taskloom.runs.train import tune
from taskloom.runs.verdict import decide
from taskloom.runs.workspace import Workspace
from taskloom.store.atomic import atomic_file, write_json
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Expert, Pool

#: said of the pool's verdict: a rival that there is not
LEFT_OUT = (
    "one fine-tune of the base on all tasks of the pool was not tried: the experts are its fine-tunes, "
    "each on one task"
)


@dataclass(frozen=True)
class Prepared:
    """Tasks, encoder and heads: what every later stage works with."""

    plan: Plan
    reader: Reader
    title: str
    tasks: list[TaskData]  # of the pool, in its order
    targets: list[TaskData]
    heads: Mapping[str, Head]
    base: Candidate


def run(
    plan: str | Path | Mapping[str, Any],
    *,
    output: str | Path | None = None,
    guard: Mode | None = None,
    progress: Progress = silent,
) -> RunResult:
    """Execute a plan; skip what an earlier run into the same folder has finished.

    Parameters
    ----------
    plan
        Path of a YAML file, or its content.
    output
        Run folder; ``runs/<name>`` under the working directory if None.
    guard
        Instead of the plan's ``guard``; the ``plan.yaml`` of the run folder has it.
    progress
        Told about every stage.

    Returns
    -------
    RunResult
        What is also in ``result.json`` of the run folder, beside ``report.html``, ``lock.json``,
        ``plan.yaml`` and ``handover/``.

    Raises
    ------
    PlanError, DataError, CheckpointError, SourceUnreachable, IntegrityError, OutputError
        See `taskloom.errors`; what was finished before stays finished.
    """
    checked, text = _guarded(plan, guard)
    folder = Path(output) if output is not None else Path("runs") / checked.name
    workspace = Workspace(folder)
    with workspace.exclusive():
        prepared = _prepare(checked, workspace, progress)
        pool = _experts(prepared)
        result = _conclude(prepared, pool, text)
        _write(folder, result, text)
    return result


def _guarded(source: str | Path | Mapping[str, Any], guard: Mode | None) -> tuple[Plan, str]:
    """Return a plan and its text, with another guard where one is given."""
    plan, text = load_plan(source)
    if guard is None or guard == plan.guard:
        return plan, text
    check_mode(guard)
    return load_plan({**plan.model_dump(mode="json", exclude_unset=True), "guard": guard})


def _prepare(plan: Plan, workspace: Workspace, progress: Progress) -> Prepared:
    with workspace.stage("read base and tasks"):
        encoder = Encoder.load(
            base_directory(plan, progress=progress), max_length=plan.evaluation.max_length
        )
        for item in plan.merge:
            if item.reestimate_batchnorm:
                check_batch_norm(encoder.directory, item.reestimate_batchnorm)
        tasks = [_load(item.task, plan, item.limits, progress) for item in plan.pool]
        targets = [
            load_task(
                t.task,
                seed=plan.seed,
                n_labels=t.labels,
                max_test=t.test or plan.limits.test,
                progress=progress,
            )
            for t in plan.targets
        ]
    reader = Reader(workspace, encoder, plan.evaluation, progress)
    base = Candidate("base", "base", "Base", encoder.digest(), encoder.state_dict)
    with workspace.stage("fit heads"):
        features = reader.read([base], tasks, "train")
        heads = {
            data.task.name: head_for(
                workspace,
                data.task,
                features["base", data.task.name],
                data.train.labels,
                seed=plan.seed,
            )
            for data in tasks
        }
    title = base_title(plan, encoder.directory, sum(p.numel() for p in encoder.module.parameters()))
    return Prepared(plan, reader, title, tasks, targets, heads, base)


def _load(task: str, plan: Plan, limits: Limits | None, progress: Progress) -> TaskData:
    sizes = limits or plan.limits
    return load_task(
        task,
        seed=plan.seed,
        max_train=sizes.train,
        max_validation=sizes.validation,
        max_test=sizes.test,
        progress=progress,
    )


def _experts(prepared: Prepared) -> Pool:
    """Open the given experts, train the missing ones, and check that they belong together."""
    plan, workspace = prepared.plan, prepared.reader.workspace
    base = open_checkpoint(prepared.reader.encoder.directory)
    experts = []
    options = TrainOptions.parse({"seed": plan.seed, **plan.train})
    with workspace.stage("train experts"):
        for item, data in zip(plan.pool, prepared.tasks, strict=True):
            name = data.task.name
            source: str | Path | None = item.expert
            if source is None:
                trained = tune(prepared.reader, prepared.heads[name], data, options)
                workspace.count("experts", skipped=trained.cached)
                source = trained.directory
            experts.append(Expert(name, open_checkpoint(source, base=base), name))
    return Pool(base, tuple(experts))


def _conclude(prepared: Prepared, pool: Pool, text: str) -> RunResult:
    plan, reader, workspace = prepared.plan, prepared.reader, prepared.reader.workspace
    bench = Bench(workspace, reader.encoder, prepared.tasks, prepared.heads, plan, reader.progress)
    with workspace.stage("choose merging options"):
        merges, sweeps = prepare_merges(pool, bench)
        tried = [front_of(pool, item, bench) for item in plan.merge]
    candidates = [prepared.base, *singles(pool)[1:], *with_average(pool, merges, plan.seed)]
    with workspace.stage("validate"):
        precision = plan.evaluation.validation_precision
        features = reader.read(candidates, prepared.tasks, "validation", precision)
        validation = _score(prepared, candidates, "validation", features)
        verdict = _pool_verdict(prepared, candidates, validation, features)
    with workspace.stage("targets: choose on few labels"):
        beside = of_plan(reader, candidates, prepared.tasks, prepared.heads)
        few = [
            _with_leads(shot, [*candidates, *shot.rivals])
            for shot in prepare(reader, plan, prepared.targets, candidates, beside)
        ]
    with workspace.stage("test"):
        features = _on_test(reader, candidates, [*prepared.tasks, *prepared.targets], few)
        test = _score(prepared, candidates, "test", features)
        concluded = [conclude(reader, plan, shot, [*candidates, *shot.rivals], features) for shot in few]
    everybody = [*candidates, *(rival for shot in few for rival in shot.rivals)]
    with workspace.stage("compare task vectors"):
        cosines = workspace.remember("cosines", pool_digest(pool), lambda: cosine_matrix(pool).tolist())
    scores = [*validation, *test, *(s for shot in few for s in shot.scores)]
    scores += [s for _, _, measured in concluded for s in measured]
    draft = results.draft(
        plan,
        text,
        base=prepared.title,
        tasks=results.task_records(prepared.tasks, prepared.targets),
        models=[candidate.record() for candidate in everybody],
        scores=scores,
        sweeps=sweeps,
        fronts=[each for each in tried if each is not None],
        rankings=[r for _, ranked, _ in concluded for r in ranked],
        guards=[verdict, *(shot.guard for shot in few)],
        targets=[record for record, _, _ in concluded],
        cosines=results.cosine_record(pool.names, cosines),
        transfer=results.transfer_record(candidates, prepared.tasks, prepared.targets, scores),
    )
    with workspace.stage("hand over"):
        handovers = _hand_over(prepared, draft, everybody, few)
    inputs = {"base": prepared.base.digest}
    inputs |= {f"expert {e.name}": e.checkpoint.digest() for e in pool.experts}
    inputs |= {f"task {d.task.name}": d.digest for d in [*prepared.tasks, *prepared.targets]}
    lock = make_lock(plan, inputs, workspace)
    return draft.model_copy(update={"handovers": handovers, "lock": lock})


def with_average(pool: Pool, merges: list[Candidate], seed: int) -> list[Candidate]:
    """Return a plan's merges, and behind them the pool's average where none of them is that.

    Every merge has to beat it. The report calls it a rival, since the plan did not ask for it.
    """
    recipe = Recipe.of(AVERAGE, seed=seed)
    if not merges or len(pool) < 2 or merge_digest(pool, recipe) in {each.digest for each in merges}:
        return merges
    name = "plain average" if AVERAGE in by_name(merges) else AVERAGE
    rival = merged(pool, recipe, name=name, title="Average (rival)")
    note = "held against the plan's merges, which it is not one of"
    return [*merges, replace(rival, rival=True, note=note)]


def _on_test(
    reader: Reader, candidates: list[Candidate], tasks: list[TaskData], few: list[FewShot]
) -> dict[tuple[str, str], Array]:
    """Open the test splits, once: every candidate on every task, a fine-tune on its own target."""
    wanted: list[tuple[Candidate, TaskData, Split]]
    wanted = [(candidate, data, "test") for candidate in candidates for data in tasks]
    wanted += [(rival, shot.data, "test") for shot in few for rival in shot.rivals]
    found = reader.read_some(wanted)
    return {(candidate, task): value for (candidate, task, _), value in found.items()}


def _score(
    prepared: Prepared,
    candidates: list[Candidate],
    split: Any,
    features: Mapping[tuple[str, str], Array],
) -> list[ScoreRecord]:
    """Score every candidate on every pool task with the task's shared head."""
    reader, found = prepared.reader, []
    for candidate in candidates:
        for data in prepared.tasks:
            name = data.task.name
            labels = reader.test_labels(data) if split == "test" else data.validation.labels
            measured = score(
                labels,
                prepared.heads[name].predict(features[candidate.name, name]),
                metric=data.task.metric,
                split=split,
                seed=prepared.plan.seed,
                model=candidate.name,
                task=name,
            )
            found.append(ScoreRecord(**asdict(measured)))
    return found


def _pool_verdict(
    prepared: Prepared,
    candidates: list[Candidate],
    validation: list[ScoreRecord],
    features: Mapping[tuple[str, str], Array],
) -> GuardRecord:
    means = {
        c.name: float(np.mean([s.value for s in validation if s.model == c.name])) for c in candidates
    }
    count = len(prepared.tasks)
    yardstick = f"mean validation score over {count} task{'s' if count != 1 else ''}"
    verdict = decide("pool", candidates, means, yardstick=yardstick, mode=prepared.plan.guard)
    if count > 1:
        reason = f"{verdict.reason.rstrip('.')}; {LEFT_OUT}"
        verdict = verdict.model_copy(update={"reason": reason})
    judged = [
        Judged(
            data.task.name,
            data.task.metric,
            data.validation.labels,
            {
                c.name: prepared.heads[data.task.name].predict(features[c.name, data.task.name])
                for c in candidates
            },
        )
        for data in prepared.tasks
    ]
    return with_leads(verdict, candidates, judged)


def _with_leads(shot: FewShot, candidates: list[Candidate]) -> FewShot:
    judged = Judged(shot.name, shot.data.task.metric, shot.labels, shot.held)
    return replace(shot, guard=with_leads(shot.guard, candidates, [judged]))


def _hand_over(
    prepared: Prepared, draft: RunResult, candidates: list[Candidate], few: list[FewShot]
) -> list[HandoverRecord]:
    """Write the pool's winner with all heads, and each target's winner with its own."""
    plan, names = prepared.plan, by_name(candidates)
    workspace, found = prepared.reader.workspace, []
    first, sizes = prepared.tasks[0], plan.pool[0].limits or plan.limits
    jobs = [
        _Job(
            folder="pool",
            winner=names[draft.guards[0].winner],
            heads=list(prepared.heads.values()),
            shown=first,
            source=plan.pool[0].task,
            sizes={"max_train": sizes.train, "max_validation": sizes.validation, "max_test": sizes.test},
            sentence=results.pool_sentence(draft.guards[0], results.titles(draft)),
            guard=draft.guards[0],
        )
    ]
    jobs += [
        _Job(
            folder=shot.name,
            winner=names[shot.guard.winner],
            heads=[shot.heads[shot.guard.winner]],
            shown=shot.data,
            source=target.task,
            sizes={"n_labels": target.labels, "max_test": target.test or plan.limits.test},
            sentence=told.sentence,
            guard=shot.guard,
        )
        for shot, target, told in zip(few, plan.targets, draft.targets, strict=True)
    ]
    for number, job in enumerate(jobs):
        record, written = _hand_one(prepared, draft, job)
        workspace.count("handovers", skipped=not written)
        prepared.reader.progress("hand over", number + 1, len(jobs))
        found.append(record)
    return found


@dataclass(frozen=True)
class _Job:
    """One directory to hand over, and the score its script reproduces."""

    folder: str
    winner: Candidate
    heads: list[Head]
    shown: TaskData
    source: str
    sizes: dict[str, int | None]
    sentence: str
    guard: GuardRecord


def _hand_one(prepared: Prepared, draft: RunResult, job: _Job) -> tuple[HandoverRecord, bool]:
    plan, encoder, winner = prepared.plan, prepared.reader.encoder, job.winner
    wanted = {head.task for head in job.heads}
    scores = [
        s for s in draft.scores if s.split == "test" and s.model == winner.name and s.task in wanted
    ]
    (shown,) = [s for s in scores if s.task == job.shown.task.name]
    path = Path(job.source)
    reproduction = Reproduction(
        score=shown,
        task_source=str(path.resolve()) if path.is_file() else job.source,
        arguments={"seed": plan.seed, **job.sizes},
        evaluation=plan.evaluation,
        pooling=encoder.settings.pooling if encoder.modality == "text" else None,
    )
    recipe = winner.record()
    made = f"Made by {recipe.method}: `{recipe.composition}`" if recipe.method else winner.title
    return hand_over(
        prepared.reader.workspace.path / "handover" / job.folder,
        winner,
        job.heads,
        encoder,
        run=plan.name,
        reproduction=reproduction,
        card=card(
            title=f"{plan.title or plan.name}: {winner.title}",
            headline=f"{job.sentence}\n\n{_why(job.guard)}",
            base=prepared.title,
            recipe=made,
            scores=[
                f"{s.task}: {s.metric} {s.value:.4f} (95 % {s.low:.4f} to {s.high:.4f}, n = {s.n})"
                for s in scores
            ],
            licenses=[f"{t.name}: {t.source}; {t.data_license}" for t in draft.tasks],
        ),
    )


def _why(guard: GuardRecord) -> str:
    """Return why the guard chose this model, for the card."""
    reason = f"{guard.reason[0].upper()}{guard.reason[1:]}".rstrip(".") + "."
    how = "the validation splits" if guard.scope == "pool" else "the few labels, cross-validated"
    table = f"\n\n{table_of(guard.margins, how)}" if guard.margins else ""
    return f"## Why this model\n\n{reason}{table}"


def _write(folder: Path, result: RunResult, text: str) -> None:
    from taskloom.runs.report import write_report

    with atomic_file(folder / "plan.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(folder / "lock.json", result.lock.model_dump(mode="json"))
    write_json(folder / "result.json", result.model_dump(mode="json"))
    write_report(result, folder / "report.html")
    ledger.record(folder.resolve().parent, folder.resolve(), result)
