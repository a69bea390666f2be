"""What taskloom auto picks, and how far that is from the best choice in hindsight.

For every target that no expert of the pool was trained on: everything in the portfolio, and every other
expert, is made on all that may be seen and scored on the test split, which nobody could do beforehand;
then auto chooses under each budget. Regret is the test score of the best of them minus that of what auto
handed over. The regrets of fixed rules (always the base, always a fine-tune, ...) are beside it.

    python benchmarks/auto_regret.py          # text suite: four targets, 64 and all labels, 5 and 20 min
    python benchmarks/auto_regret.py --page   # docs/regret.md and its picture, of what is measured
    python benchmarks/auto_regret.py --small  # a small image pool; writes nothing into the docs

A run that was interrupted goes on; what is in the results is not done again. All targets have their 64
labels before the first has all.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskloom.evaluation.score import score
from taskloom.progress import Progress
from taskloom.runs.auto.api import auto, load_target
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.ending import finish
from taskloom.runs.auto.ground import lay
from taskloom.runs.auto.looking import calibrate, look
from taskloom.runs.auto.portfolio import Wishes, portfolio, rivals
from taskloom.runs.auto.purse import Purse
from taskloom.runs.auto.workbench import Workbench
from taskloom.runs.claims.run import machine
from taskloom.runs.claims.stage import lay_ground, set_stage
from taskloom.runs.claims.suite import Suite, load_suite
from taskloom.runs.desk import open_desk
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.report import theme
from taskloom.runs.report.drawing import save_chart
from taskloom.runs.report.style import axis, config, fixed
from taskloom.runs.workspace import Workspace
from taskloom.store.atomic import write_json
from taskloom.store.cache import cache_root
from taskloom.store.pool import open_pool

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "auto_regret.json"
PICTURE, PAGE = ROOT / "docs" / "img" / "auto_regret.svg", ROOT / "docs" / "regret.md"
SMALL = {
    "name": "small_images",
    "title": "Two tasks on digits",
    "base": {
        "built": {
            "build": {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16},
            "pretrain": "digits_prime",
            "subset": {"parts": 3, "part": 0},
            "options": {"steps": 20, "batch_size": 16},
        }
    },
    "limits": {"train": 120, "validation": 40, "test": 60},
    "tasks": ["digits_parity", "digits_mod3", "digits_ten"],
    "experts": {"full": {"steps": 20, "batch_size": 16, "learning_rate": 0.003}},
    "seeds": [0],
    "counts": [2],
}
#: rules that choose without looking, as members of the portfolio are called
RULES = ("base", "average", "fine-tune")


@dataclass(frozen=True)
class Setting:
    """One table: a suite's first experts, the targets after them, labels, budgets."""

    suite: Suite
    pool: int
    labels: tuple[int | None, ...]
    minutes: tuple[float, ...]
    limits: Limits
    seeds: tuple[int, ...]


def setting(small: bool, seeds: tuple[int, ...]) -> Setting:
    if small:
        suite = Suite.model_validate(SMALL)
        limits = Limits(train=200, validation=120, test=300)
        return Setting(suite, 2, (None,), (0.3, 1.0), limits, seeds)
    suite = load_suite("text")
    limits = Limits(train=1000, validation=200, test=500)
    return Setting(suite, 8, (64, None), (5.0, 20.0), limits, seeds)


def listener(label: str, done: float, total: float | None, /) -> None:
    print(f"\r{label}: {done:g}/{total or 0:g}    ", end="", file=sys.stderr, flush=True)


def experts_of(wanted: Setting, seed: int) -> tuple[str, dict[str, str], list[str]]:
    """Return the base's directory, the experts' by name, and the targets."""
    ground = lay_ground(wanted.suite, seed, progress=listener)
    stage = set_stage(ground, "full", wanted.pool)
    found = {e.name: str(t.directory) for e, t in zip(stage.stored.experts, stage.trained, strict=True)}
    targets = [item.task for item in wanted.suite.tasks[wanted.pool :]]
    return str(ground.encoder.directory), found, targets


def hindsight(
    target: str,
    base: str,
    experts: dict[str, str],
    labels: int | None,
    limits: Limits,
    evaluation: Evaluation,
    seed: int,
    folder: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score on test all that auto could hand over, made on all that may be seen."""
    desk = open_desk(base, seed=seed, progress=progress, options=evaluation)
    pool = open_pool(desk.reader.encoder.directory, list(experts.values()), names=list(experts))
    data, _ = load_target(target, labels, limits, seed, progress)
    workspace = Workspace(folder)
    with workspace.exclusive():
        here = replace(desk, reader=replace(desk.reader, workspace=workspace))
        bench = Workbench(here, pool, lay(data, seed=seed), {})
        purse = Purse(1e6, workspace, [bench.digest, "hindsight"], progress=progress)
        purse.paid = bench.readings.keep
        costs = Costs(bench.ground)
        calibrate(bench, purse, costs)
        ranked, _ = look(bench, purse, costs)
        wishes = Wishes("labels", seed=seed)
        members = portfolio(pool, ranked, wishes)
        members += rivals(pool, ranked, members, wishes)
        finals = {}
        for number, member in enumerate(members):
            finals[member.name] = finish(bench, member)
            bench.readings.keep()
            progress(f"{target}: make", number + 1, len(members))
        features = here.reader.read([final.candidate for final in finals.values()], [data], "test")
        truth = here.reader.test_labels(data)
    rows = []
    for member in members:
        guessed = finals[member.name].head.predict(features[member.name, data.task.name])
        s = score(truth, guessed, metric=data.task.metric, seed=seed)
        rows.append(
            {
                "name": member.name,
                "kind": member.kind,
                "test": s.value,
                "low": s.low,
                "high": s.high,
                "n": s.n,
            }
        )
    return rows


def measure(wanted: Setting, output: Path, work: Path) -> None:
    """Fill in what is missing of the results, and write them after every piece."""
    found = json.loads(output.read_text()) if output.exists() else {}
    found |= {"suite": wanted.suite.name, "digest": wanted.suite.digest, "machine": machine()}
    found |= {"limits": wanted.limits.model_dump(), "pool": wanted.pool}
    found.setdefault("hindsight", {})
    found.setdefault("auto", {})
    for seed in wanted.seeds:
        base, experts, targets = experts_of(wanted, seed)
        for labels in wanted.labels:
            for target in targets:
                place = f"{target}, {labels or 'all'} labels, seed {seed}"
                more = (base, experts)
                if place not in found["hindsight"]:
                    found["hindsight"][place] = hindsight(
                        target, *more, labels, wanted.limits, wanted.suite.evaluation, seed,
                        work / "hindsight" / place.replace(", ", "-").replace(" ", "_"), listener,
                    )  # fmt: skip
                    write_json(output, found)
                for minutes in wanted.minutes:
                    key = f"{place}, {minutes:g} minutes"
                    if key not in found["auto"]:
                        folder = work / "auto" / key.replace(", ", "-").replace(" ", "_")
                        found["auto"][key] = chosen(target, *more, labels, minutes, wanted, seed, folder)
                        write_json(output, found)


def chosen(
    target: str,
    base: str,
    experts: dict[str, str],
    labels: int | None,
    minutes: float,
    wanted: Setting,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    report = auto(
        target, base, experts, minutes=minutes, output=folder, labels=labels, limits=wanted.limits,
        evaluation=wanted.suite.evaluation, seed=seed, progress=listener,
    )  # fmt: skip
    own = next(s for s in report.tests if s.model == report.winner)
    return {
        "winner": report.winner,
        "test": own.value,
        "low": own.low,
        "high": own.high,
        "n": own.n,
        "seconds": round(report.seconds, 1),
        "rungs": [[round(rung.share, 4), rung.count] for rung in report.rungs],
        "reached": report.reached,
        "tried": sum(bool(row.points) for row in report.rows),
        "regret_bound": report.regret_bound,
    }


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the regret of every choice on every target: auto's by budget, and those of fixed rules."""
    rows = []
    for place in measured(found):
        members = found["hindsight"][place]
        best = max(members, key=lambda row: row["test"])
        target, labels, _ = place.split(", ")
        known = {"target": target, "labels": labels, "place": place, "best": best["name"]}
        for key, picked in found["auto"].items():
            if key.startswith(f"{place}, "):
                budget = key.removeprefix(f"{place}, ")
                regret = best["test"] - picked["test"]
                rows.append(
                    {**known, "rule": f"auto, {budget}", "regret": regret, "took": picked["winner"]}
                )
        by_name = {row["name"]: row for row in members}
        first = next(row["name"] for row in members if row["kind"] == "expert")
        for rule, name in [*((rule, rule) for rule in RULES), ("expert ranked first", first)]:
            if name in by_name:
                regret = best["test"] - by_name[name]["test"]
                rows.append({**known, "rule": rule, "regret": regret, "took": name})
    return rows


def chart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the picture: regret in points by target, auto against fixed rules."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    autos = sorted((r for r in rules if r.startswith("auto")), key=lambda r: float(r.split()[1]))
    order = [*autos, *(r for r in rules if r not in autos)]
    hues = ["merge", "bad", "base", "expert", "good", "ink-2"]
    shapes = ["triangle-up", "diamond", "circle", "square", "cross", "triangle-down"]
    points = [
        {
            "place": f"{row['target']}, {row['labels']}",
            "rule": row["rule"],
            "regret": 100 * row["regret"],
        }
        for row in rows
    ]
    scale = {"domain": order, "range": [theme.colour(hue) for hue in hues[: len(order)]]}
    legend = {"title": None, "orient": "top", "columns": 3}
    return {
        **fixed(points),
        "width": 460,
        "height": {"step": 28},
        "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.9},
        "encoding": {
            "x": {
                "field": "regret",
                "type": "quantitative",
                "axis": axis("points behind the best in hindsight", grid=True),
            },
            "y": {"field": "place", "type": "nominal", "axis": axis(None, grid=True, labelLimit=260)},
            "color": {"field": "rule", "type": "nominal", "scale": scale, "legend": legend},
            "shape": {
                "field": "rule",
                "type": "nominal",
                "scale": {"domain": order, "range": shapes[: len(order)]},
                "legend": legend,
            },
        },
        "config": config(),
    }


def spread(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, int]]:
    """Return of every rule the mean and the largest regret, in points, and their number."""
    found = {}
    for rule in dict.fromkeys(row["rule"] for row in rows):
        regrets = [100 * row["regret"] for row in rows if row["rule"] == rule]
        found[rule] = sum(regrets) / len(regrets), max(regrets), len(regrets)
    return found


def told(rows: list[dict[str, Any]]) -> str:
    """Return the mean and the largest regret of every rule, in points."""
    lines = [f"{'rule':24} {'mean':>6} {'most':>6}  n"]
    lines += [f"{rule:24} {m:6.1f} {most:6.1f}  {n}" for rule, (m, most, n) in spread(rows).items()]
    return "\n".join(lines)


def page(found: dict[str, Any]) -> str:
    """Return the page about what is measured."""
    settings = measured(found)
    rows = summary(found)
    rules = [f"| {rule} | {m:.1f} | {most:.1f} | {n} |" for rule, (m, most, n) in spread(rows).items()]
    picks = []
    for place in settings:
        target, labels, _ = place.split(", ")
        members = found["hindsight"][place]
        best = max(members, key=lambda member: member["test"])
        for key in (key for key in found["auto"] if key.startswith(f"{place}, ")):
            took = found["auto"][key]
            regret = 100 * (best["test"] - took["test"])
            picks.append(
                f"| `{target}` | {labels.removesuffix(' labels')} | {key.removeprefix(f'{place}, ')} "
                f"| {took['winner']} | {interval(took)} | {took['tried']} of {len(members)} "
                f"| {took['seconds']:.0f} | {best['name']} | {interval(best)} | {regret:.1f} |"
            )
    seeds = sorted({place.split(", ")[2] for place in settings})
    limits = found["limits"]
    missing = (
        "" if any(" all labels," in place for place in settings) else " All labels: not measured yet."
    )
    return f"""# Regret of auto

<!-- written by: python benchmarks/auto_regret.py --page -->

What [`taskloom auto`](auto.md) hands over under a budget of minutes, and how far that is from the best
of everything it could have tried, which nobody knows beforehand. The pool is the first {found["pool"]}
full experts of the [text suite](claims.md), and no target is among their tasks. Of a target there are
at most {limits["train"]} examples of training, {limits["validation"]} of validation and
{limits["test"]} of test; "64" allows 64 labels in all, training and validation together.

![Regret of auto and of fixed rules by target](img/{PICTURE.name})

**Best in hindsight**: every member of the portfolio, and every other expert, is made on all that may be
seen, at any price, and the one with the highest score on the test split is taken. The highest of many
scores is partly luck, so that its distance is more than what a perfect choice could have gained.
**Regret** is that distance in points.

| rule | mean regret | largest | n |
|---|---|---|---|
{chr(10).join(rules)}

{verdict(rows)} Of 64
labels 32 choose and 32 check, and one example of 32 is three points: who wins the check is largely luck,
and where nobody wins by more than a standard error the base stays.

n counts targets by labels ({", ".join(seeds)}); with so few of them the means have no interval. "Base",
"average" and "fine-tune" (of the base) always hand over that member, "expert ranked first" the one that
the scores of `taskloom select` put first. A regret below zero is possible: members that auto makes see
other halves and folds than those made for hindsight.

| target | labels | budget | auto took | score, % | tried | seconds | in hindsight | score, % | regret |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(picks)}

Intervals are of 95 % over the test examples. Measured by `python benchmarks/auto_regret.py` with one
thread (`OMP_NUM_THREADS=1`) on {found["machine"]}; minutes are those of that
machine. Scores of all members are in `benchmarks/results/auto_regret.json`.{missing}
"""


def verdict(rows: list[dict[str, Any]]) -> str:
    """Say in words whether auto was worth its minutes, of the longest budget."""
    means = {rule: mean for rule, (mean, _, _) in spread(rows).items()}
    own = max((rule for rule in means if rule.startswith("auto")), key=lambda r: float(r.split()[1]))
    better = [rule for rule, mean in means.items() if not rule.startswith("auto") and mean < means[own]]
    if not better:
        return f"**No fixed rule did as well as {own}.**"
    named = ["the expert ranked first" if rule.startswith("expert") else rule for rule in better]
    return f"**{own.capitalize()}, did worse here than always {', '.join(named)}.**"


def measured(found: dict[str, Any]) -> list[str]:
    """Return the places of which hindsight and every budget is there."""
    budgets = {key.rsplit(", ", 1)[1] for key in found["auto"]}
    return [
        place
        for place in found["hindsight"]
        if all(f"{place}, {budget}" in found["auto"] for budget in budgets)
    ]


def interval(row: dict[str, Any]) -> str:
    return f"{100 * row['test']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f}, n = {row['n']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    work = cache_root() / ("auto_regret_small" if asked.small else "auto_regret")
    output, picture = (work / RESULTS.name, work / PICTURE.name) if asked.small else (RESULTS, PICTURE)
    if not asked.page:
        output.parent.mkdir(parents=True, exist_ok=True)
        measure(setting(asked.small, tuple(asked.seeds)), output, work)
    found = json.loads(output.read_text(encoding="utf-8"))
    rows = summary(found)
    save_chart(chart(rows), picture)
    if not asked.small:
        PAGE.write_text(page(found), encoding="utf-8")
    print(f"\n{told(rows)}\n{output}\n{picture}")


if __name__ == "__main__":
    main()
