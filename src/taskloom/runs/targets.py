"""Targets with few labels: rank the experts, let the guard choose, then look at the test split.

Everything is chosen on the few labels alone (transferability scores on all of them, cross-validation
for the guard). The truth a ranking is held against is the test score of a head fitted on the same
labels over each expert's features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.agreement import regret_at_k, spearman, weighted_tau
from taskloom.choose.rank import rank, resolve
from taskloom.choose.supplies import wanted
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.interval import paired_difference
from taskloom.evaluation.score import score
from taskloom.models.head import Head
from taskloom.runs.beside import Beside
from taskloom.runs.candidates import Candidate, by_name
from taskloom.runs.features import Reader, Split
from taskloom.runs.heads import head_for, held_out
from taskloom.runs.plan import Plan
from taskloom.runs.result import GuardRecord, RankEntry, RankingRecord, ScoreRecord, TargetRecord
from taskloom.runs.rival import LEFT_OUT, Rival, fine_tuned
from taskloom.runs.verdict import decide

Array = NDArray[Any]
FOLDS = 5
REPEATS = 4
#: splits that the few labels are dealt into
PARTS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class FewShot:
    """What is known of one target before its test split is opened."""

    data: TaskData
    labels: Array  # (n,) of the few labelled examples
    features: Mapping[str, Array]  # candidate -> (n, D)
    heads: Mapping[str, Head]  # candidate -> head fitted on all n labels
    held: Mapping[str, Array]  # candidate -> cross-validated predictions (n,)
    guard: GuardRecord
    scores: list[ScoreRecord]  # cross-validated
    rankings: list[RankingRecord]  # truth not filled in yet
    rival: Rival | None  # the base fine-tuned on the labels

    @property
    def rivals(self) -> list[Candidate]:
        """The fine-tune as a candidate, if there is one."""
        return [] if self.rival is None else [self.rival.candidate]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.data.task.name


def prepare(
    reader: Reader,
    plan: Plan,
    targets: Sequence[TaskData],
    candidates: Sequence[Candidate],
    beside: Beside | None = None,
) -> list[FewShot]:
    """Rank the experts and choose a candidate for every target from its few labels.

    ``beside`` says where the things are that scores look at beside features; without it, scores that
    look at such things are refused.
    """
    read = reader.read_parts(candidates, targets, PARTS)

    def features(name: str) -> dict[str, Array]:
        return {c.name: np.concatenate([read[c.name, name, part] for part in PARTS]) for c in candidates}

    return [
        _prepare(reader, plan, data, candidates, features(data.task.name), beside) for data in targets
    ]


def _prepare(
    reader: Reader,
    plan: Plan,
    data: TaskData,
    candidates: Sequence[Candidate],
    features: Mapping[str, Array],
    beside: Beside | None,
) -> FewShot:
    name = data.task.name
    labels = np.concatenate([data.train.labels, data.validation.labels])
    heads, values, predicted, scores = {}, {}, {}, []
    for number, candidate in enumerate(candidates):
        own = features[candidate.name]
        stash = reader.workspace
        heads[candidate.name] = head_for(stash, data.task, own, labels, seed=plan.seed)
        held = held_out(stash, data.task, own, labels, folds=FOLDS, repeats=REPEATS, seed=plan.seed)
        measured = score(
            labels,
            held,
            metric=data.task.metric,
            split="cross-validation",
            seed=plan.seed,
            model=candidate.name,
            task=name,
        )
        values[candidate.name], predicted[candidate.name] = measured.value, held
        scores.append(ScoreRecord(**asdict(measured)))
        reader.progress(f"try on {name}", number + 1, len(candidates))
    rival = fine_tuned(reader, plan, data, features["base"])
    rivals: list[Candidate] = []
    if rival is not None:
        rivals = [rival.candidate]
        tuned = rival.candidate.name
        heads[tuned], predicted[tuned] = rival.head, rival.held
        measured = score(
            labels,
            rival.held,
            metric=data.task.metric,
            split="cross-validation",
            seed=plan.seed,
            model=tuned,
            task=name,
        )
        values[tuned] = measured.value
        scores.append(ScoreRecord(**asdict(measured)))
    verdict = decide(
        name,
        [*candidates, *rivals],
        values,
        yardstick=f"cross-validated {data.task.metric} on {len(labels)} labels",
        mode=plan.guard,
        right={name: held == labels for name, held in predicted.items()},
    )
    if rival is None:
        reason = f"{verdict.reason.rstrip('.')}; {LEFT_OUT}"
        verdict = verdict.model_copy(update={"reason": reason})
    experts = {c.name: features[c.name] for c in candidates if c.kind == "expert"}
    rankings = _rank(data, experts, labels, plan, beside) if len(experts) > 1 else []
    return FewShot(data, labels, features, heads, predicted, verdict, scores, rankings, rival)


def _rank(
    data: TaskData, experts: Mapping[str, Array], labels: Array, plan: Plan, beside: Beside | None
) -> list[RankingRecord]:
    specs = [(item.score, item.options) for item in plan.select]
    names = wanted(resolve(spec)[0] for spec in specs)
    supplies = beside.supplies(names, data, experts) if beside and names else {}
    ranked = rank(experts, labels, specs, supplies=supplies)
    return [
        RankingRecord(
            target=data.task.name,
            score=item.label,
            entries=[RankEntry(expert=e.expert, score=e.value, rank=e.rank) for e in ranking.entries],
            seconds=ranking.seconds,
            weighted_tau=None,
            spearman=None,
            regret_at_1=0.0,
        )
        for item, ranking in zip(plan.select, ranked, strict=True)
    ]


def conclude(
    reader: Reader,
    plan: Plan,
    shot: FewShot,
    candidates: Sequence[Candidate],
    features: Mapping[tuple[str, str], Array],
) -> tuple[TargetRecord, list[RankingRecord], list[ScoreRecord]]:
    """Score every candidate by its test features; hold the rankings against the truth."""
    data, name = shot.data, shot.name
    labels = reader.test_labels(data)
    predicted = {c.name: shot.heads[c.name].predict(features[c.name, name]) for c in candidates}
    scores = [
        ScoreRecord(
            **asdict(
                score(
                    labels,
                    predicted[c.name],
                    metric=data.task.metric,
                    split="test",
                    seed=plan.seed,
                    model=c.name,
                    task=name,
                )
            )
        )
        for c in candidates
    ]
    truth = {s.model: s.value for s in scores}
    rankings = [_against(ranking, truth) for ranking in shot.rankings]
    return _record(plan, shot, candidates, labels, predicted, truth), rankings, scores


def _against(ranking: RankingRecord, truth: Mapping[str, float]) -> RankingRecord:
    estimated = [entry.score for entry in ranking.entries]
    true = [truth[entry.expert] for entry in ranking.entries]
    return ranking.model_copy(
        update={
            "weighted_tau": weighted_tau(estimated, true),
            "spearman": spearman(estimated, true),
            "regret_at_1": regret_at_k(estimated, true),
        }
    )


def _record(
    plan: Plan,
    shot: FewShot,
    candidates: Sequence[Candidate],
    labels: Array,
    predicted: Mapping[str, Array],
    truth: Mapping[str, float],
) -> TargetRecord:
    winner = shot.guard.winner
    gain, low, high = gain_interval(
        labels, predicted[winner], predicted["base"], metric=shot.data.task.metric, seed=plan.seed
    )
    best = max(truth, key=lambda name: truth[name])  # the first of equals
    record = TargetRecord(
        target=shot.name,
        n_labels=len(shot.labels),
        reuse=winner,
        value=truth[winner],
        base_value=truth["base"],
        gain=gain,
        gain_low=low,
        gain_high=high,
        n=len(labels),
        best_in_hindsight=best,
        best_in_hindsight_value=truth[best],
        handover=f"handover/{shot.name}",
        sentence="",
    )
    title = by_name(candidates)[winner].title
    return record.model_copy(update={"sentence": sentence(record, title, shot.data.task.metric)})


def gain_interval(
    labels: Array, chosen: Array, base: Array, *, metric: str, seed: int
) -> tuple[float, float, float]:
    """Return the gain over the base on the same test examples, with its 95 % interval.

    The percentile bootstrap is too sure of itself when few examples tell the two apart: four that one
    gets right and the other wrong, none the other way round, already exclude 0. For accuracy the
    interval is therefore widened to 0 where the exact sign test (McNemar 1947) does not reject
    equality at 5 %.

    >>> labels = np.zeros(100, dtype=int)
    >>> base = np.where(np.arange(100) < 4, 1, 0)
    >>> gain_interval(labels, labels, base, metric="accuracy", seed=0)[1]
    0.0
    """
    gain, low, high = paired_difference(labels, chosen, base, metric=metric, seed=seed)
    if metric == "accuracy" and _sign_test(chosen == labels, base == labels) > 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return gain, low, high


def _sign_test(first: Array, second: Array) -> float:
    """Return the exact two-sided p of two models being right equally often where they differ."""
    only = sorted((int((first & ~second).sum()), int((second & ~first).sum())))
    tail = sum(math.comb(sum(only), k) for k in range(only[0] + 1))
    return float(min(1.0, tail / 2 ** (sum(only) - 1)))


def sentence(record: TargetRecord, title: str, metric: str) -> str:
    """Say for one target what to reuse and what it brings, in points, with the interval.

    The choice was made on the few labels and the gain is measured on the test split, so picking the
    best of many does not flatter it. The interval is over test examples, given these labels: another
    draw of labels may choose another model, and with several targets some intervals miss by chance.
    """
    labels = f"{record.n_labels} labels"
    if record.reuse == "base":
        return (
            f"For {record.target} keep the base: with {labels} nothing in the pool did clearly better "
            f"in cross-validation ({metric} {record.base_value * 100:.1f} on {record.n} test examples)."
        )
    alone = f"{title[0].lower()}{title[1:]}"
    if record.reuse.startswith("fine-tune:"):
        return f"For {record.target} take the {alone}: {_tells(record)}."
    what = alone if record.reuse.startswith("expert:") else f"the merge {title}"
    return f"For {record.target} reuse {what}: with {labels} {_tells(record)}."


def _tells(record: TargetRecord) -> str:
    """Say what a model brings over the base, with the interval."""
    span = f"95 % interval {record.gain_low * 100:+.1f} to {record.gain_high * 100:+.1f}"
    if record.gain_low > 0:
        tells = f"it gains {record.gain * 100:.1f} points over the base"
    elif record.gain_high < 0:
        tells = f"it loses {-record.gain * 100:.1f} points against the base, a transfer that hurts"
    else:
        tells = f"it moves {record.gain * 100:+.1f} points against the base, which may be chance"
    return f"{tells} ({span}, n = {record.n})"
