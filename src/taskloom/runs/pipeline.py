"""``taskloom.run``: a plan in, a checked model and a report out.

Stages: read the tasks, fit one head per task on frozen base features, train what experts are missing,
choose merging options on validation, apply the guard on validation and on few labels, and only then open
the test splits, hand over and report. Every piece is stashed by the digest of what went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.choose.task_vectors import cosine_matrix
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.evaluation.score import score
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import train_expert
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs import ledger, results
from taskloom.runs.base import base_directory, base_title
from taskloom.runs.candidates import Candidate, by_name, pool_digest, singles
from taskloom.runs.features import Reader
from taskloom.runs.handover import hand_over
from taskloom.runs.heads import head_for
from taskloom.runs.lock import make_lock
from taskloom.runs.plan import Limits, Plan, PoolItem, load_plan
from taskloom.runs.result import GuardRecord, HandoverRecord, RunResult, ScoreRecord
from taskloom.runs.snippets import card, snippet
from taskloom.runs.sweep import Bench, prepare_merges
from taskloom.runs.targets import FewShot, conclude, prepare
from taskloom.runs.verdict import decide
from taskloom.runs.workspace import Workspace
from taskloom.store.atomic import atomic_file, write_json
from taskloom.store.cache import cache_root
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Expert, Pool


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
    progress: Progress = silent,
) -> RunResult:
    """Execute a plan; skip what an earlier run into the same folder has finished.

    Parameters
    ----------
    plan
        Path of a YAML file, or its content.
    output
        Run folder; ``runs/<name>`` under the working directory if None.
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
    checked, text = load_plan(plan)
    folder = Path(output) if output is not None else Path("runs") / checked.name
    workspace = Workspace(folder)
    with workspace.exclusive():
        prepared = _prepare(checked, workspace, progress)
        pool = _experts(prepared)
        result = _conclude(prepared, pool, text)
        _write(folder, result, text)
    return result


def _prepare(plan: Plan, workspace: Workspace, progress: Progress) -> Prepared:
    with workspace.stage("read base and tasks"):
        encoder = Encoder.load(
            base_directory(plan, progress=progress), max_length=plan.evaluation.max_length
        )
        tasks = [_load(item.task, plan, item.limits, progress) for item in plan.pool]
        targets = [
            load_task(
                t.task, seed=plan.seed, n_labels=t.labels, max_test=plan.limits.test, progress=progress
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
                data,
                features["base", data.task.name],
                data.train.labels,
                owner=base.digest,
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
    with workspace.stage("train experts"):
        for item, data in zip(plan.pool, prepared.tasks, strict=True):
            name = data.task.name
            source = item.expert or _train(prepared, item, data)
            experts.append(Expert(name, open_checkpoint(source, base=base), name))
    return Pool(base, tuple(experts))


def _train(prepared: Prepared, item: PoolItem, data: TaskData) -> Path:
    plan, reader = prepared.plan, prepared.reader
    options = TrainOptions(**{"seed": plan.seed, "max_length": plan.evaluation.max_length, **plan.train})
    trained = train_expert(
        reader.encoder.directory,
        prepared.heads[data.task.name],
        (data.train.inputs, data.train.labels),
        (data.validation.inputs, data.validation.labels),
        options,
        cache=cache_root() / "experts",
        key_extra={"task": data.digest},
        progress=reader.progress,
    )
    reader.workspace.count("experts", skipped=trained.cached)
    return trained.directory


def _conclude(prepared: Prepared, pool: Pool, text: str) -> RunResult:
    plan, reader, workspace = prepared.plan, prepared.reader, prepared.reader.workspace
    bench = Bench(workspace, reader.encoder, prepared.tasks, prepared.heads, plan, reader.progress)
    with workspace.stage("choose merging options"):
        merges, sweeps = prepare_merges(pool, bench)
    candidates = [prepared.base, *singles(pool)[1:], *merges]
    with workspace.stage("validate"):
        validation = _score(prepared, candidates, "validation")
        verdict = _pool_verdict(prepared, candidates, validation)
    with workspace.stage("targets: choose on few labels"):
        few = [prepare(reader, plan, data, candidates) for data in prepared.targets]
    with workspace.stage("test"):
        test = _score(prepared, candidates, "test")
        concluded = [conclude(reader, plan, shot, candidates) for shot in few]
    with workspace.stage("compare task vectors"):
        cosines = workspace.remember("cosines", pool_digest(pool), lambda: cosine_matrix(pool).tolist())
    scores = [*validation, *test, *(s for shot in few for s in shot.scores)]
    scores += [s for _, _, measured in concluded for s in measured]
    draft = results.draft(
        plan,
        text,
        base=prepared.title,
        tasks=results.task_records(prepared.tasks, prepared.targets),
        models=[candidate.record() for candidate in candidates],
        scores=scores,
        sweeps=sweeps,
        rankings=[r for _, ranked, _ in concluded for r in ranked],
        guards=[verdict, *(shot.guard for shot in few)],
        targets=[record for record, _, _ in concluded],
        cosines=results.cosine_record(pool.names, cosines),
        transfer=results.transfer_record(candidates, prepared.tasks, prepared.targets, scores),
    )
    with workspace.stage("hand over"):
        handovers = _hand_over(prepared, draft, candidates, few)
    inputs = {"base": prepared.base.digest}
    inputs |= {f"expert {e.name}": e.checkpoint.digest() for e in pool.experts}
    inputs |= {f"task {d.task.name}": d.digest for d in [*prepared.tasks, *prepared.targets]}
    lock = make_lock(plan, inputs, workspace)
    return draft.model_copy(update={"handovers": handovers, "lock": lock})


def _score(prepared: Prepared, candidates: list[Candidate], split: Any) -> list[ScoreRecord]:
    """Score every candidate on every pool task with the task's shared head."""
    reader, found = prepared.reader, []
    features = reader.read(candidates, prepared.tasks, split)
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
    prepared: Prepared, candidates: list[Candidate], validation: list[ScoreRecord]
) -> GuardRecord:
    means = {
        c.name: float(np.mean([s.value for s in validation if s.model == c.name])) for c in candidates
    }
    count = len(prepared.tasks)
    yardstick = f"mean validation score over {count} task{'s' if count != 1 else ''}"
    return decide("pool", candidates, means, yardstick=yardstick, mode=prepared.plan.guard)


def _hand_over(
    prepared: Prepared, draft: RunResult, candidates: list[Candidate], few: list[FewShot]
) -> list[HandoverRecord]:
    """Write the pool's winner with all heads, and each target's winner with its own."""
    found, names = [], by_name(candidates)
    pool_winner = draft.guards[0].winner
    jobs = [("pool", pool_winner, list(prepared.heads.values()), prepared.tasks[0])]
    jobs += [(s.name, s.guard.winner, [s.heads[s.guard.winner]], s.data) for s in few]
    for number, (folder, winner, heads, data) in enumerate(jobs):
        record, written = _hand_one(prepared, draft, names[winner], heads, data, folder)
        prepared.reader.workspace.count("handovers", skipped=not written)
        prepared.reader.progress("hand over", number + 1, len(jobs))
        found.append(record)
    return found


def _hand_one(
    prepared: Prepared,
    draft: RunResult,
    candidate: Candidate,
    heads: list[Head],
    data: TaskData,
    folder: str,
) -> tuple[HandoverRecord, bool]:
    plan, encoder = prepared.plan, prepared.reader.encoder
    name = data.task.name
    wanted = {head.task for head in heads}
    scores = [
        s for s in draft.scores if s.split == "test" and s.model == candidate.name and s.task in wanted
    ]
    (own,) = [s for s in scores if s.task == name]
    reproduces = f"{name} test {own.metric} {own.value:.6f} (n = {own.n})"
    items = {item.task: item for item in plan.pool}
    source = next(
        (t for t in [*items, *(x.task for x in plan.targets)] if results.task_name(t) == name), name
    )
    few = {results.task_name(t.task): t.labels for t in plan.targets}
    sizes = (items[source].limits if source in items else None) or plan.limits
    arguments: dict[str, int | None] = {
        "seed": plan.seed,
        "max_train": None if name in few else sizes.train,
        "max_validation": None if name in few else sizes.validation,
        "max_test": plan.limits.test if name in few else sizes.test,
        "n_labels": few.get(name),
    }
    target = prepared.reader.workspace.path / "handover" / folder
    script = snippet(
        plain_text=encoder.modality == "text" and encoder.settings.pooling == "mean",
        path=str(target),
        task=name,
        task_source=source,
        arguments=arguments,
        max_length=encoder.max_length,
        reproduces=reproduces,
    )
    recipe = candidate.record()
    made = f"Made by {recipe.method}: `{recipe.composition}`" if recipe.method else candidate.title
    return hand_over(
        target,
        candidate,
        heads,
        encoder,
        run=plan.name,
        reproduces=reproduces,
        snippet=script,
        card=card(
            title=f"{plan.title or plan.name}: {candidate.title}",
            headline=draft.headline,
            base=prepared.title,
            recipe=made,
            scores=[
                f"{s.task}: {s.metric} {s.value:.4f} (95 % {s.low:.4f} to {s.high:.4f}, n = {s.n})"
                for s in scores
            ],
            licenses=[f"{t.name}: {t.source}; {t.data_license}" for t in draft.tasks],
        ),
    )


def _write(folder: Path, result: RunResult, text: str) -> None:
    from taskloom.runs.report import write_report

    with atomic_file(folder / "plan.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(folder / "lock.json", result.lock.model_dump(mode="json"))
    write_json(folder / "result.json", result.model_dump(mode="json"))
    write_report(result, folder / "report.html")
    ledger.record(folder.parent, folder, result)
