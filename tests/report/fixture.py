"""A run as a reader would meet it, and runs that try to break the page."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

from taskloom.runs.result import (
    FrontRecord,
    GuardRecord,
    HandoverRecord,
    LockRecord,
    Matrix,
    MixtureRecord,
    ModelRecord,
    RankEntry,
    RankingRecord,
    RunResult,
    ScoreRecord,
    SweepPoint,
    TargetRecord,
    TaskRecord,
)

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&amp;\"'{{ 7*7 }}"

# name, title, classes, test size, base accuracy, own expert's accuracy, licence
POOL = [
    ("trec6", "Question type (TREC)", 6, 500, 0.842, 0.942, "CC-BY-4.0"),
    ("sms_spam", "Spam in text messages", 2, 600, 0.956, 0.987, "CC-BY-4.0"),
    ("ag_news", "News topic (AG)", 4, 800, 0.861, 0.902, "research use"),
    ("subj", "Subjectivity", 2, 500, 0.892, 0.941, "CC-BY-4.0"),
    ("reviews", "Review sentiment", 2, 600, 0.798, 0.868, "CC-BY-SA-4.0"),
    ("emotion", "Emotion", 6, 500, 0.562, 0.744, "research use"),
    ("hate", "Hateful posts", 2, 400, 0.672, 0.711, "CC-BY-NC-4.0"),
    ("banking", "Banking intent", 12, 480, 0.881, 0.926, "CC-BY-4.0"),
]
TARGETS = [
    ("quotes", "Quotations by theme", 5, 400, 0.643, "public domain"),
    ("headlines", "Clickbait headlines", 2, 350, 0.874, "MIT"),
]
MERGES = [
    ("average", "Average", "mean -> scale(1.0)", 1, 0.16, {}),
    ("task_arithmetic", "Task arithmetic", "total -> scale(0.3)", 1, 0.42, {"scale": 0.3}),
    ("ties", "TIES", "keep(0.2, model) -> elect -> mean(kept) -> scale(1.0)", 3, 0.52,
     {"density": 0.2, "scale": 1.0}),
    ("dare_ties", "DARE-TIES", "drop(0.8, seed) -> elect -> mean(kept) -> scale(1.0)", 1, 0.36,
     {"p": 0.8, "scale": 1.0}),
    ("breadcrumbs", "Breadcrumbs", "cut(0.01, row) -> keep(0.15, row) -> total -> scale(0.4)", 1,
     0.45, {"top": 0.01, "keep": 0.15, "scale": 0.4}),
    ("slerp", "SLERP of the two best", "slerp(0.5)", 1, -0.14, {"t": 0.5}),
]  # fmt: skip
SCORES = ["h_score", "logme", "linear_probe", "knn"]


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def score(model: str, task: str, share: float, n: int, **changes: Any) -> ScoreRecord:
    value = round(min(max(share, 0.0), 1.0) * n) / n
    low, high = wilson(value, n)
    fields: dict[str, Any] = {
        "model": model, "task": task, "split": "test", "metric": "accuracy", "value": value,
        "low": low, "high": high, "interval": "wilson", "n": n, "seed": 0,
    }  # fmt: skip
    return ScoreRecord(**{**fields, **changes})


def task(name: str, title: str, classes: int, n_test: int, licence: str, role: Any) -> TaskRecord:
    return TaskRecord(
        name=name, title=title, metric="accuracy", labels=[f"class {i}" for i in range(classes)],
        n_train=64 if role == "target" else 4000, n_validation=16 if role == "target" else 500,
        n_test=n_test, removed_duplicates=len(title), source=f"package file data/{name}.csv",
        data_license=licence, digest=digest(name), role=role,
    )  # fmt: skip


def lock(**changes: Any) -> LockRecord:
    fields: dict[str, Any] = {
        "plan_digest": digest("plan"),
        "inputs": {
            "base": digest("base"),
            **{f"expert:{name}": digest(name) for name, *_ in POOL},
        },
        "versions": {"taskloom": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "platform": "Linux x86_64, Python 3.11.2, 2 cores",
        "seed": 0,
        "seconds": {"tasks": 14.2, "select": 38.0, "train": 402.7, "merge": 9.4, "evaluate": 96.1},
        "peak_memory_bytes": 2_140_000_000,
        "skipped": [],
    }
    return LockRecord(**{**fields, **changes})


def realistic() -> RunResult:
    """Eight pool tasks, the base, eight experts, six merges, two targets."""
    dice = random.Random(7)
    scores = [*_pool_scores(dice), *_target_scores(dice)]
    found = {(s.model, s.task): s for s in scores}
    return RunResult(
        name="demo",
        title="Eight text tasks, two targets",
        created="2026-01-15T09:30:00Z",
        headline=(
            "For Quotations by theme reuse the expert of Emotion: it gains 6.5 points over the base "
            "with 64 labels (95 % interval 2.9 to 10.1, n = 400)."
        ),
        base="all-MiniLM-L6-v2 (22.7 M parameters)",
        plan_yaml="name: demo\nbase: all-MiniLM-L6-v2\ntasks: [trec6, sms_spam, ag_news]\nseed: 0\n",
        tasks=[
            *(task(n, t, c, size, lic, "pool") for n, t, c, size, _, _, lic in POOL),
            *(task(n, t, c, size, lic, "target") for n, t, c, size, _, lic in TARGETS),
        ],
        models=_models(),
        scores=scores,
        sweeps=_sweeps(dice),
        rankings=_rankings(found, dice),
        guards=_guards(),
        targets=_targets(found),
        cosines=_cosines(dice),
        transfer=_transfer(found),
        handovers=[_handover("ties", [n for n, *_ in POOL]), _handover("expert:emotion", ["quotes"])],
        lock=lock(),
        warnings=["headlines: the interval of the gain includes zero; more labels would tell."],
    )


def empty() -> RunResult:
    """A run that found nothing at all."""
    return RunResult(
        name="nothing", title="Nothing yet", created="2026-01-15T09:30:00Z",
        headline="No model was scored in this run.", base="none", plan_yaml="", tasks=[], models=[],
        scores=[], sweeps=[], rankings=[], guards=[], targets=[], cosines=None, transfer=None,
        handovers=[], lock=lock(inputs={}, versions={}, seconds={}, peak_memory_bytes=0),
    )  # fmt: skip


def hostile() -> RunResult:
    """Every text a user controls carries markup; numbers are missing or not finite."""
    n = 64
    names = [HOSTILE, "var(--ink)", "constructor", "__proto__", "a" * 300, "naïve 任务 \u2028"]
    tasks = [task(name, name, 2, n, HOSTILE, "pool") for name in names]
    target = task("target " + HOSTILE, HOSTILE, 2, n, HOSTILE, "target")
    base = ModelRecord(name="base", kind="base", title=HOSTILE)
    experts = [ModelRecord(name=f"expert:{x}", kind="expert", title=x, task=x) for x in names]
    merge = ModelRecord(name="m" + HOSTILE, kind="merge", title=HOSTILE, method=HOSTILE,
                        options={HOSTILE: HOSTILE}, composition=HOSTILE, digest=HOSTILE)  # fmt: skip
    models = [base, *experts, merge]
    scores = [
        score(m.name, t.name, 0.9 - 0.1 * i, n) for i, m in enumerate(models) for t in [*tasks, target]
    ]
    scores[3] = scores[3].model_copy(update={"value": float("nan"), "low": float("nan")})
    entries = [RankEntry(expert=e.name, score=float("nan"), rank=i + 1) for i, e in enumerate(experts)]
    matrix = Matrix(
        title=HOSTILE, rows=[e.name for e in experts], columns=names,
        values=[[None, float("nan"), 0.1, -0.2, 0.0, 1e9] for _ in experts],
        row_label=HOSTILE, column_label=HOSTILE,
    )  # fmt: skip
    return RunResult(
        name=HOSTILE, title=HOSTILE, created=HOSTILE, headline=HOSTILE, base=HOSTILE,
        plan_yaml=HOSTILE, tasks=[*tasks, target], models=models, scores=scores,
        sweeps=[SweepPoint(method=merge.name, option=HOSTILE, setting=1.0, value=0.5, low=0.4,
                           high=0.6, n=64, chosen=True)],
        rankings=[RankingRecord(target=target.name, score=HOSTILE, entries=entries, seconds=0.1,
                                weighted_tau=None, spearman=float("nan"), regret_at_1=0.0)],
        guards=[GuardRecord(scope=HOSTILE, winner=HOSTILE, best_merge=None, best_single=HOSTILE,
                            best_merge_value=None, best_single_value=0.5, base_value=0.4,
                            yardstick=HOSTILE, refused=[merge.name], reason=HOSTILE)],
        targets=[TargetRecord(target=target.name, n_labels=64, reuse=merge.name, value=0.5,
                              base_value=0.6, gain=-0.1, gain_low=-0.2, gain_high=-0.02, n=n,
                              best_in_hindsight="base", best_in_hindsight_value=0.6,
                              handover=HOSTILE, sentence=HOSTILE)],
        cosines=matrix, transfer=matrix,
        handovers=[HandoverRecord(path=HOSTILE, model=HOSTILE, heads=[HOSTILE], digest=HOSTILE,
                                  snippet=HOSTILE, reproduces=HOSTILE)],
        fronts=[FrontRecord(method=merge.name, experts=names[:2], rewards=names[:2], mixtures=[
            MixtureRecord(weights=[1 - k / 2, k / 2], rewards=[0.4 + k / 10, 0.6], low=[0.3, 0.5],
                          high=[0.7, 0.7], n=[9, 9], on_front=k == 2, chosen=k == 2)
            for k in range(3)])],
        lock=lock(inputs={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE}, platform=HOSTILE,
                  seconds={HOSTILE: 1.0}, skipped=[HOSTILE]),
        warnings=[HOSTILE],
    )  # fmt: skip


def _models() -> list[ModelRecord]:
    base = ModelRecord(name="base", kind="base", title="Base", digest=digest("base"))
    experts = [
        ModelRecord(name=f"expert:{name}", kind="expert", title=f"Expert: {title}", task=name,
                    composition="base + task vector", seconds=41.0 + len(name), digest=digest(name))
        for name, title, *_ in POOL
    ]  # fmt: skip
    merges = [
        ModelRecord(name=name, kind="merge", title=title, method=name, options=options,
                    composition=composition, reads=reads, bytes_read=reads * 9 * 90_900_000,
                    seconds=0.9 * reads + 0.4, digest=digest(composition))
        for name, title, composition, reads, _, options in MERGES
    ]  # fmt: skip
    return [base, *experts, *merges]


def _pool_scores(dice: random.Random) -> list[ScoreRecord]:
    scores = []
    for name, _, _, n, base, own, _ in POOL:
        scores.append(score("base", name, base, n))
        for expert, *_ in POOL:
            share = own if expert == name else base + dice.gauss(-0.025, 0.025)
            scores.append(score(f"expert:{expert}", name, share, n))
        for merge, _, _, _, kept, _ in MERGES:
            scores.append(score(merge, name, base + kept * (own - base) + dice.gauss(0, 0.012), n))
    return scores


def _target_scores(dice: random.Random) -> list[ScoreRecord]:
    scores = []
    for name, _, _, n, base, _ in TARGETS:
        scores.append(score("base", name, base, n))
        for expert, *_ in POOL:
            lift = 0.065 if (expert, name) == ("emotion", "quotes") else dice.gauss(-0.005, 0.02)
            scores.append(score(f"expert:{expert}", name, base + lift, n))
        for merge, *_ in MERGES:
            scores.append(score(merge, name, base + dice.gauss(0.018, 0.01), n))
    return scores


def _sweeps(dice: random.Random) -> list[SweepPoint]:
    peaks = {"task_arithmetic": 0.3, "ties": 1.0, "breadcrumbs": 0.4}
    points = []
    for method, peak in peaks.items():
        for setting in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3):
            drop = 0.09 * ((setting - peak) / (0.6 + peak)) ** 2
            value = 0.856 - drop + (0.0 if setting == peak else dice.gauss(-0.002, 0.001))
            points.append(
                SweepPoint(method=method, option="scale", setting=setting, value=value,
                           low=value - 0.011, high=value + 0.011, n=4000, chosen=setting == peak)
            )  # fmt: skip
    return points


def _rankings(found: dict[Any, ScoreRecord], dice: random.Random) -> list[RankingRecord]:
    records = []
    for target, *_ in TARGETS:
        truth = {f"expert:{name}": found[f"expert:{name}", target].value for name, *_ in POOL}
        for number, name in enumerate(SCORES):
            noisy = {e: v + dice.gauss(0, 0.006 + 0.006 * number) for e, v in truth.items()}
            order = sorted(noisy, key=lambda e: -noisy[e])
            entries = [RankEntry(expert=e, score=noisy[e], rank=i + 1) for i, e in enumerate(order)]
            regret = max(truth.values()) - truth[order[0]]
            records.append(
                RankingRecord(target=target, score=name, entries=entries, seconds=0.02 + number,
                              weighted_tau=0.86 - 0.17 * number, spearman=0.9 - 0.2 * number,
                              regret_at_1=regret)
            )  # fmt: skip
    return records


def _guards() -> list[GuardRecord]:
    return [
        GuardRecord(
            scope="pool", winner="ties", best_merge="ties", best_single="expert:emotion",
            best_merge_value=0.8562, best_single_value=0.8216, base_value=0.8091,
            yardstick="mean validation accuracy over 8 tasks", refused=["slerp"],
            reason="TIES beats the best single expert by 3.5 points on validation.",
        ),
        GuardRecord(
            scope="quotes", winner="expert:emotion", best_merge="task_arithmetic",
            best_single="expert:emotion", best_merge_value=0.668, best_single_value=0.703,
            base_value=0.641, yardstick="5-fold cross-validated accuracy on 64 labels",
            refused=["average", "task_arithmetic", "ties", "dare_ties", "breadcrumbs", "slerp"],
            reason="Every merge loses to the expert of Emotion on the 64 labels.",
        ),
        GuardRecord(
            scope="headlines", winner="ties", best_merge="ties", best_single="expert:subj",
            best_merge_value=0.891, best_single_value=0.889, base_value=0.875,
            yardstick="5-fold cross-validated accuracy on 64 labels", refused=["slerp", "average"],
            reason="TIES is ahead of the best single expert by 0.2 points, within the noise.",
        ),
    ]  # fmt: skip


def _targets(found: dict[Any, ScoreRecord]) -> list[TargetRecord]:
    records = []
    for target, reuse, title, half in (
        ("quotes", "expert:emotion", "Quotations by theme", 0.036),
        ("headlines", "ties", "Clickbait headlines", 0.026),
    ):
        own, base = found[reuse, target], found["base", target]
        best = max((s for (_, t), s in found.items() if t == target), key=lambda s: s.value)
        gain = own.value - base.value
        what = "the expert of Emotion" if reuse != "ties" else "the TIES merge"
        records.append(
            TargetRecord(
                target=target, n_labels=64, reuse=reuse, value=own.value, base_value=base.value,
                gain=gain, gain_low=gain - half, gain_high=gain + half, n=own.n,
                best_in_hindsight=best.model, best_in_hindsight_value=best.value,
                handover=f"handover/{reuse.replace(':', '-')}",
                sentence=f"For {title} reuse {what}: it gains {100 * gain:.1f} points over the base "
                         f"with 64 labels (95 % interval {100 * (gain - half):.1f} to "
                         f"{100 * (gain + half):.1f}, n = {own.n}).",
            )
        )  # fmt: skip
    return records


def _cosines(dice: random.Random) -> Matrix:
    names = [f"expert:{name}" for name, *_ in POOL]
    size = len(names)
    values: list[list[float | None]] = [[1.0] * size for _ in names]
    for i in range(size):
        for j in range(i):
            values[i][j] = values[j][i] = max(-0.05, dice.gauss(0.09, 0.08))
    return Matrix(title="Cosine of task vectors", rows=names, columns=names, values=values,
                  row_label="Expert", column_label="Expert")  # fmt: skip


def _transfer(found: dict[Any, ScoreRecord]) -> Matrix:
    columns = [name for name, *_ in [*POOL, *TARGETS]]
    rows = [f"expert:{name}" for name, *_ in POOL]
    values: list[list[float | None]] = [
        [found[row, column].value - found["base", column].value for column in columns] for row in rows
    ]
    return Matrix(title="Transfer: test score minus base", rows=rows, columns=columns,
                  values=values, row_label="Source expert", column_label="Task")  # fmt: skip


def _handover(model: str, heads: list[str]) -> HandoverRecord:
    path = f"handover/{model.replace(':', '-')}"
    snippet = (
        "from transformers import AutoModel, AutoTokenizer\n"
        "from taskloom.models.head import Head\n\n"
        f'directory = "{path}"\n'
        "encoder = AutoModel.from_pretrained(directory)\n"
        "tokenizer = AutoTokenizer.from_pretrained(directory)\n"
        f'head = Head.load(directory, "{heads[0]}")\n'
    )
    return HandoverRecord(path=path, model=model, heads=heads, digest=digest(path), snippet=snippet,
                          reproduces=f"{heads[0]} test accuracy 0.8720 (n = 500)")  # fmt: skip
