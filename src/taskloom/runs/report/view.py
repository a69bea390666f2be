"""What the page's template is given: words and positions, nothing left to compute in the template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from taskloom.runs.report import tables, words
from taskloom.runs.report.charts import Figure, figures
from taskloom.runs.report.index import Index
from taskloom.runs.result import GuardRecord, LockRecord, TargetRecord


@dataclass(frozen=True)
class TargetView:
    """One target's answer: sentence, gain, interval and where they lie on the common scale."""

    title: str
    sentence: str
    gain: str
    gain_interval: str
    verdict: str
    tone: tables.Tone
    kept: bool  # the base itself: there is no difference to show
    zero: float  # positions in per cent of the bar
    at: float
    low: float
    high: float
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GuardView:
    """One verdict in plain words."""

    scope: str
    verdict: str
    reason: str
    yardstick: str
    facts: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]
    refusal: str  # why, one sentence; empty when nothing was refused


@dataclass(frozen=True)
class RankingView:
    """The rankings of one target: small charts and one table."""

    title: str
    figures: tuple[Figure, ...]
    table: tables.Table


@dataclass(frozen=True)
class StageView:
    """A stage's share of the run's time."""

    name: str
    time: str
    share: float  # per cent of the longest stage


def view(index: Index) -> dict[str, Any]:
    """Return everything the template shows."""
    result = index.result
    drawn = figures(index)
    return {
        "result": result,
        "index": index,
        "words": words,
        "figures": drawn,
        "targets": [_target(index, record) for record in result.targets],
        "guards": [_guard(index, record) for record in result.guards],
        "harms": tables.harms(index),
        "rankings": _rankings(index, drawn["rankings"]),
        "leaderboard": tables.leaderboard(index),
        "agreement": tables.agreement(index, result.rankings),
        "recipes": tables.recipes(index),
        "tasks": tables.tasks(index),
        "inputs": tables.inputs(index),
        "versions": tables.versions(index),
        "stages": _stages(index),
        "run_facts": _facts(index),
        "lock": _lock(index),
    }


def _facts(index: Index) -> list[tuple[str, str]]:
    result = index.result
    kinds = [model.kind for model in result.models]
    made = [
        words.count(kinds.count("expert"), "expert"),
        words.count(kinds.count("merge"), "merge"),
        words.count(len(index.pool_tasks), "pool task"),
        words.count(len(index.target_tasks), "target"),
    ]
    return [
        ("Base", result.base),
        ("Compared", ", ".join(made)),
        ("Made", result.created.replace("T", " ").replace("Z", " UTC")),
        ("Took", _took(result.lock)),
    ]


def _took(lock: LockRecord) -> str:
    """Return the seconds of this run, and whether it went on from earlier ones."""
    seconds = words.duration(math.fsum(lock.seconds.values()))
    return f"{seconds}, after earlier runs" if lock.skipped else seconds


def _target(index: Index, record: TargetRecord) -> TargetView:
    lows = [t.gain_low for t in index.result.targets]
    highs = [t.gain_high for t in index.result.targets]
    left, right = min(0.0, *lows), max(0.0, *highs)
    span = (right - left) * 1.12 or 1.0
    left -= 0.06 / 1.12 * span

    def at(value: float) -> float:
        share = 100.0 * (value - left) / span
        return round(min(100.0, max(0.0, share)), 2) if math.isfinite(share) else 0.0

    verdict, tone = _told_apart(record)
    n = record.n
    return TargetView(
        title=index.task_label(record.target),
        sentence=record.sentence,
        gain=words.points(record.gain, n, signed=True),
        gain_interval=words.interval(record.gain_low, record.gain_high, n, signed=True),
        verdict=verdict,
        tone=tone,
        kept=record.reuse == "base",
        zero=at(0.0),
        at=at(record.gain),
        low=at(record.gain_low),
        high=at(record.gain_high),
        facts=(
            ("Reuse", index.label(record.reuse)),
            ("Its test score", f"{words.points(record.value, n)} points"),
            ("Base", f"{words.points(record.base_value, n)} points"),
            (
                "Best in hindsight",
                f"{index.label(record.best_in_hindsight)}, "
                f"{words.points(record.best_in_hindsight_value, n)} points",
            ),
            ("Labels used", f"{record.n_labels:,}"),
            ("Test examples", f"{n:,}"),
            ("Handed over in", record.handover or words.MISSING),
        ),
    )


def _told_apart(record: TargetRecord) -> tuple[str, tables.Tone]:
    if record.reuse == "base":
        return "the base is kept: nothing is reused, so nothing is gained or lost", "quiet"
    if record.gain_low > 0:
        return "clear gain: the interval lies above zero", "good"
    if record.gain_high < 0:
        return "clear loss: the interval lies below zero", "bad"
    return "not told apart from no gain: the interval holds zero", "quiet"


def _guard(index: Index, record: GuardRecord) -> GuardView:
    scope = "All pool tasks" if record.scope == "pool" else index.task_label(record.scope)
    winner = index.models.get(record.winner)
    label = index.label(record.winner)
    told = winner is None or winner.kind in label.lower()
    kind = "" if told or winner is None else f" ({winner.kind})"
    single = index.label(record.best_single)
    facts = [
        (f"Best single: {single}", f"{words.points(record.best_single_value)} points"),
        ("Base", f"{words.points(record.base_value)} points"),
    ]
    if record.best_merge is not None:
        value = f"{words.points(record.best_merge_value)} points"
        facts.insert(0, (f"Best merge: {index.label(record.best_merge)}", value))
    refused = tuple(index.label(name) for name in record.refused)
    verb = "loses" if len(refused) == 1 else "lose"
    refusal = (
        f"Negative transfer: {words.count(len(refused), 'merge')} {verb} to {single}, the best single "
        "model, and will not be handed over as the winner."
    )
    return GuardView(
        scope=scope,
        verdict=f"Hand over {label}{kind}",
        reason=record.reason,
        yardstick=record.yardstick,
        facts=tuple(facts),
        refused=refused,
        refusal=refusal if refused else "",
    )


def _rankings(index: Index, drawn: list[Figure]) -> list[RankingView]:
    found = []
    for target in dict.fromkeys(record.target for record in index.result.rankings):
        records = [record for record in index.result.rankings if record.target == target]
        found.append(
            RankingView(
                title=index.task_label(target),
                figures=tuple(figure for figure in drawn if figure.group == target),
                table=tables.ranking(index, target, records),
            )
        )
    return found


def _stages(index: Index) -> list[StageView]:
    seconds = index.result.lock.seconds
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        StageView(name, words.duration(taken), round(100 * taken / longest, 1))
        for name, taken in seconds.items()
    ]


def _lock(index: Index) -> list[tuple[str, str]]:
    lock = index.result.lock
    return [
        ("Plan", lock.plan_digest),
        ("Seed", str(lock.seed)),
        ("Platform", lock.platform),
        ("Peak memory", words.size(lock.peak_memory_bytes) if lock.peak_memory_bytes else words.MISSING),
        ("Taken from cache", ", ".join(lock.skipped) or "nothing"),
    ]
