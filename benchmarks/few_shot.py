"""A few labels of a target that is not in the pool: merges, fits and searches beside fine-tuning.

    export OMP_NUM_THREADS=1
    python benchmarks/few_shot.py measure [--minutes 40] [--targets T ...] [--methods M ...]
                                          [--counts 1 2 ...] [--draws 0 1 ...]
    python benchmarks/few_shot.py picture     # docs/img/few_shot.svg
    python benchmarks/few_shot.py page        # docs/few_shot.md

The pool is the first eight experts of the text suite (seed 0), found in the cache or trained first; the
targets are tasks that it does not hold. A draw gives every class its first 1, 2, 4, ... labels of one
random order of the target's training examples, so that more labels contain fewer. Every method is made
from those alone (AdaMerging also sees other training inputs, without labels), what it has to choose is
chosen by them, and the test examples are seen when the result is scored. Heads are logistic regressions
on the features of the model they belong to; a fine-tune keeps the head that its start had.

Rows are kept in benchmarks/results/few_shot.json as they are measured, and not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "few_shot.json"
PICTURE = ROOT / "docs" / "img" / "few_shot.svg"
PAGE = ROOT / "docs" / "few_shot.md"

TARGETS = {"editorial_sentiment": "Editorial sentiment", "tweets_apple": "Sentiment of tweets"}
COUNTS, DRAWS = (1, 2, 4, 8, 16, 64), (0, 1, 2)
POOL, TESTED, UNLABELED, BATCH = 8, 500, 256, 16
#: of a fine-tune, as the pool's experts were trained
TUNE = {
    "batch_size": 32,
    "learning_rate": 0.0002,
    "precision": "bf16",
    "freeze": ("embeddings.",),
    "max_length": 24,
}
SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
ATLAS = {"setting": "few_shot", "rate": 0.03, "steps": 30}
ADAMERGING = {"shape": "free", "rate": 0.03, "steps": 20, "passes": 1, "start": 1 / POOL}
SEARCH = {"combine": "changes", "evaluations": 20}
#: what a reader should know -> of which method; the order of tables and legends
METHODS = {
    "base": ("base", "a head on the base's features"),
    "expert": ("best expert", "a head on the features of the expert that the labels rank first"),
    "average": ("average", "of all eight experts"),
    "ties": (
        "TIES",
        f"of all eight, its scale chosen by the labels from {SCALES[0]:g} to {SCALES[-1]:g}",
    ),
    "adamerging": (
        "AdaMerging",
        f"tensor by tensor, {ADAMERGING['steps']} steps on {UNLABELED} inputs without labels; the "
        "labels fit the head only",
    ),
    "atlas": ("aTLAS", f"few-shot, {ATLAS['steps']} steps on the labels"),
    "search": (
        "LoraHub's search",
        f"of one weight for each expert, {SEARCH['evaluations']} evaluations on the labels; whole "
        "changes of weights in place of the factors of adapters",
    ),
    "fine-tune": ("fine-tune", "of the base, 30 to 60 steps on the labels, at the experts' rate"),
    "fine-tune of expert": ("fine-tune of best expert", "the same from the expert ranked first"),
}
RIVAL = "fine-tune"
SAMPLES = 2000


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Target:
    """A target, its test examples, and the pool that it is not in."""

    bench: Any  # runs.auto.workbench.Workbench
    test: Any  # runs.auto.readings.Readings
    labels: np.ndarray
    seconds: float = 0.0

    def accuracy(self, candidate: Any, head: Any) -> np.ndarray:
        """Return which test examples a model gets right."""
        features = self.test.features(candidate, np.arange(len(self.labels)))
        return head.predict(features) == self.labels


def measure(
    targets: Sequence[str],
    counts: Sequence[int],
    draws: Sequence[int],
    methods: Sequence[str],
    minutes: float,
    output: Path = RESULTS,
    suite: str = "text",
) -> None:
    """Measure what is not there yet, for about so many minutes of begun rows."""
    end = time.monotonic() + 60 * minutes
    wanted = [
        (target, count, draw, method)
        for target in targets
        for draw in draws
        for count in counts
        for method in methods
    ]
    known = {place(row) for row in read(output)["rows"]}
    opened: dict[str, Target] = {}
    stage = None
    for target, count, draw, method in wanted:
        if (target, count, draw, method) in known:
            continue
        if time.monotonic() > end:
            print("\nnot all is done; run it again")
            return
        if target not in opened:
            stage = stage or open_stage(suite)
            opened = {target: open_target(stage, target)}
            enter(output, stage, target, opened[target])
        row = measured(opened[target], stage, target, count, draw, method)
        add(output, row)
        say(f"{target}, {count} a class, draw {draw}, {method}", row["value"], None)
    print("\nall is done")


def say(label: str, done: float, total: float | None, /) -> None:
    """Tell how far it is."""
    of = "" if total is None else f"/{total:g}"
    print(
        f"\r{label}: {done:.4g}{of}    ", end="\n" if total is None else "", file=sys.stderr, flush=True
    )


def open_stage(suite: str) -> Any:
    """Open the pool, training what is not in the cache."""
    from taskloom.runs.claims.stage import lay_ground, set_stage
    from taskloom.runs.claims.suite import load_suite

    return set_stage(lay_ground(load_suite(suite), 0, progress=say), "full", POOL)


def open_target(stage: Any, target: str) -> Target:
    """Load a target, and open its test split."""
    from taskloom.evaluation.load import load_task
    from taskloom.runs.auto.ground import Ground
    from taskloom.runs.auto.readings import Readings
    from taskloom.runs.auto.workbench import Workbench
    from taskloom.runs.candidates import Candidate
    from taskloom.runs.desk import Desk
    from taskloom.runs.workspace import Workspace
    from taskloom.store.cache import cache_root

    data = load_task(target, max_test=TESTED, max_validation=1)
    encoder = stage.ground.encoder
    reader = replace(stage.ground.reader, workspace=Workspace(cache_root() / "few_shot"), progress=say)
    desk = Desk(reader, Candidate("base", "base", "Base", encoder.digest(), encoder.state_dict), 0)
    none = np.array([], dtype=np.int64)
    ground = Ground(data, data.train, "cross-validation", none, none, none, None, 0)
    test = data.test.open("few-shot curve")
    bench = Workbench(desk, stage.stored, ground, {})
    return Target(bench, Readings(reader, test), test.labels)


def dealt(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Return the first ``count`` rows of every class in the order of a draw.

    >>> labels = np.array([0, 1, 0, 1, 0, 1])
    >>> set(dealt(labels, 1, 0)) < set(dealt(labels, 2, 0)), len(dealt(labels, 2, 0))
    (True, 4)
    """
    rng = np.random.default_rng([draw, 17])
    found = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < count:
            raise SystemExit(f"class {label} has {len(rows)} training examples, expected {count}")
        found.append(rows[:count])
    return np.sort(np.concatenate(found))


def measured(on: Target, stage: Any, target: str, count: int, draw: int, method: str) -> dict[str, Any]:
    """Make a model of a draw's labels by a method, and score it on the test examples."""
    from taskloom.runs.auto.workbench import Lot

    rows = dealt(on.bench.ground.examples.labels, count, draw)
    bench = replace(on.bench, ground=replace(on.bench.ground, fit=rows, search=rows, seed=draw))
    lot = Lot(bench, rows, 1.0)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        candidate, head, said = MAKERS[method](lot, stage, Path(folder))
        head = head or bench.head(candidate, rows)
        right = on.accuracy(candidate, head)
    if method in FIXED:
        bench.readings.keep()
        on.test.keep()
    else:
        bench.readings.forget(candidate)
        on.test.forget(candidate)
    return {
        "target": target,
        "count": count,
        "draw": draw,
        "method": method,
        "value": round(float(right.mean()), 6),
        "n": len(right),
        "seconds": round(time.process_time() - begun, 1),
        "said": said,
        "right": np.packbits(right).tobytes().hex(),
    }


Made = tuple[Any, Any, dict[str, str]]


def of_base(lot: Any, stage: Any, folder: Path) -> Made:
    return lot.bench.desk.base, None, {}


def of_expert(lot: Any, stage: Any, folder: Path) -> Made:
    best = best_expert(lot)
    return single(lot, best), None, {"taken": best}


def of_average(lot: Any, stage: Any, folder: Path) -> Made:
    from taskloom.merging.recipe import Recipe
    from taskloom.runs.candidates import merged

    return merged(stage.pool, Recipe.of("average"), name="average", title="average"), None, {}


def of_ties(lot: Any, stage: Any, folder: Path) -> Made:
    from taskloom.merging.recipe import Recipe
    from taskloom.runs.candidates import merged

    tried = {
        f"{scale:g}": merged(
            stage.pool, Recipe.of("ties", scale=scale), name=f"ties {scale:g}", title="TIES"
        )
        for scale in SCALES
    }
    best = first_of(lot, tried)
    return tried[best], None, {"scale": best}


def of_atlas(lot: Any, stage: Any, folder: Path) -> Made:
    shown = lot.bench.ground.examples.take(lot.learns)
    return fitted(lot, stage, "atlas", ATLAS, shown, labelled=True)


def of_search(lot: Any, stage: Any, folder: Path) -> Made:
    return fitted(
        lot, stage, "lorahub", SEARCH, lot.bench.ground.examples.take(lot.learns), labelled=True
    )


def of_adamerging(lot: Any, stage: Any, folder: Path) -> Made:
    """Fit on training inputs without labels."""
    examples = lot.bench.ground.examples
    drawn = np.random.default_rng([lot.bench.ground.seed, 23]).permutation(len(examples))[:UNLABELED]
    return fitted(lot, stage, "adamerging", ADAMERGING, examples.take(drawn), labelled=False)


def fitted(
    lot: Any, stage: Any, method: str, options: Mapping[str, Any], examples: Any, *, labelled: bool
) -> Made:
    """Fit the numbers of a merge on examples, under a head on the base's features."""
    import torch

    from taskloom.learn.batches import BatchPlan
    from taskloom.learn.probe import Examples as Batches
    from taskloom.learn.probe import Probe
    from taskloom.learn.problem import Problem
    from taskloom.merging.recipe import Recipe
    from taskloom.registry import get
    from taskloom.runs.candidates import Candidate, merge_digest
    from taskloom.runs.trying import Merges

    encoder, pool = lot.bench.desk.reader.encoder, stage.pool
    head = lot.head(lot.bench.desk.base)
    own = {name: t for name, t in encoder.state_dict().items() if name in pool.tensors}
    probe = Probe.of_encoder(encoder, head, weights=own, digest=pool.base.digest(), label="base")
    encoded = encoder.encode(examples.inputs)
    plan = BatchPlan(encoded.lengths, BATCH, seed=lot.bench.ground.seed)
    rows = [plan.at(step) for step in range(plan.per_epoch)]
    labels = torch.from_numpy(examples.labels)
    batches = Batches.of((encoded.batch(r), labels[r] if labelled else None) for r in rows)
    merges = Merges(pool)
    on = Problem(
        pool.base,
        {expert.name: expert.checkpoint for expert in pool.experts},
        {head.task: probe},
        {head.task: batches},
        seed=lot.bench.ground.seed,
        merge=merges,
    )
    entry = get("fit", method)
    found = entry.function(on, **entry.validate(options))
    digest = merge_digest(pool, Recipe.of(found.method, **found.options))
    weights = partial(merges, found.method, found.options)
    return Candidate(method, "merge", method, digest, weights), None, told(found.said)


def of_tuning(from_expert: bool, lot: Any, stage: Any, folder: Path) -> Made:
    """Fine-tune the base or an expert, with the options of the pool's own experts."""
    from taskloom.learn.options import TrainOptions
    from taskloom.learn.train import train_expert
    from taskloom.runs.auto.making import tuning_steps
    from taskloom.runs.candidates import Candidate, read_all
    from taskloom.store.open import open_checkpoint

    bench, base = lot.bench, lot.bench.desk.base
    best = best_expert(lot) if from_expert else ""
    start = single(lot, best) if from_expert else base
    directory = bench.desk.reader.encoder.directory
    if from_expert:
        directory = bench.pool.expert(best).checkpoint.path
    head = lot.head(start)
    options = TrainOptions(**TUNE, steps=tuning_steps(len(lot.learns)), seed=bench.ground.seed)
    learns, stops = (bench.ground.examples.take(rows) for rows in (lot.learns, lot.stops))
    trained = train_expert(
        directory,
        head,
        (learns.inputs, learns.labels),
        (stops.inputs, stops.labels),
        options,
        cache=folder,
    )
    checkpoint = open_checkpoint(trained.directory, base=bench.pool.base)
    weights = dict(read_all(checkpoint))
    candidate = Candidate("tuned", "expert", "tuned", checkpoint.digest(), lambda: weights)
    return candidate, head, {"steps": str(trained.steps), **({"taken": best} if best else {})}


def told(said: Mapping[str, str]) -> dict[str, str]:
    """Keep what a fit says that matters for a reader of the curve."""
    return {
        key: value for key, value in said.items() if key in ("collapse", "collapsed", "kept", "stopped")
    }


def single(lot: Any, name: str) -> Any:
    """Return an expert as a candidate."""
    from taskloom.runs.candidates import singles

    return next(each for each in singles(lot.bench.pool) if each.name == f"expert:{name}")


def best_expert(lot: Any) -> str:
    """Return the expert that the labels rank first."""
    return first_of(lot, {name: single(lot, name) for name in lot.bench.pool.names})


def first_of(lot: Any, candidates: Mapping[str, Any]) -> str:
    """Rank models as the first look of ``taskloom auto`` ranks experts, and return the first."""
    from taskloom.choose.rank import DEFAULT_SCORES, rank
    from taskloom.runs.auto.looking import usable

    bench, rows = lot.bench, lot.rows
    labels = bench.ground.examples.labels[rows]
    features = {name: bench.readings.features(each, rows) for name, each in candidates.items()}
    places = dict.fromkeys(candidates, 0)
    for ranking in rank(features, labels, usable(DEFAULT_SCORES, labels)[0]):
        for entry in ranking.entries:
            places[entry.expert] += entry.rank
    return min(places, key=places.__getitem__)


MAKERS: dict[str, Callable[[Any, Any, Path], Made]] = {
    "base": of_base,
    "expert": of_expert,
    "average": of_average,
    "ties": of_ties,
    "adamerging": of_adamerging,
    "atlas": of_atlas,
    "search": of_search,
    "fine-tune": partial(of_tuning, False),
    "fine-tune of expert": partial(of_tuning, True),
}
#: models that no label changes: their features are kept for all draws
FIXED = ("base", "expert", "average", "ties")


# --- the file ------------------------------------------------------------------------------------


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Return what is known already."""
    if not path.is_file():
        return {"format": 1, "machine": "", "targets": {}, "experts": {}, "rows": []}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def place(row: Mapping[str, Any]) -> tuple[str, int, int, str]:
    """Return what a row is of."""
    return row["target"], row["count"], row["draw"], row["method"]


def enter(path: Path, stage: Any, target: str, on: Target) -> None:
    """Write down what rows of a target are measured with; refuse what older rows did not have."""
    from taskloom.errors import IntegrityError
    from taskloom.runs.claims.run import machine

    found = read(path)
    data = {"digest": on.bench.ground.data.digest, "n": len(on.labels), "classes": classes(on)}
    experts = {each.name: each.checkpoint.digest() for each in stage.stored.experts}
    if found["targets"].get(target, data) != data or (found["experts"] or experts) != experts:
        raise IntegrityError(
            f"{path}: the data of {target!r} or an expert changed since rows were measured",
            hint="Measure into another file with --output",
        )
    found["targets"][target] = data
    put(path, {**found, "machine": machine(), "experts": experts})


def classes(on: Target) -> int:
    """Return how many classes the training examples have."""
    return len(np.unique(on.bench.ground.examples.labels))


def add(path: Path, row: dict[str, Any]) -> None:
    """Write the file with one more row."""
    found = read(path)
    put(path, {**found, "rows": [*found["rows"], row]})


def put(path: Path, found: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    from taskloom.runs.row_file import alone, lay_out
    from taskloom.store.atomic import atomic_file

    head = {key: value for key, value in found.items() if key != "rows"}
    with alone(path, "few_shot"), atomic_file(path) as temporary:
        temporary.write_text(lay_out(head, [json.dumps(row) for row in found["rows"]]), encoding="utf-8")


# --- what rows come to ---------------------------------------------------------------------------


def table_of(rows: Sequence[Mapping[str, Any]], target: str, count: int, method: str) -> np.ndarray:
    """Return which examples a method got right, (draws, examples), in the order of the draws."""
    own = sorted(
        (r for r in rows if place(r)[:2] == (target, count) and r["method"] == method), key=place
    )
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(r["right"]), np.uint8))[: r["n"]] for r in own]
    return np.array(bits, dtype=np.float64) if bits else np.empty((0, 0))


def interval(table: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of a table with its 95 % interval over both draws and examples.

    Rows and columns are drawn again with replacement, each on their own (Owen 2007, The pigeonhole
    bootstrap): draws share their test examples, so that the two do not vary together. One draw says
    nothing about others, and its interval is over examples alone.

    >>> interval(np.ones((3, 50)))
    (1.0, 1.0, 1.0)
    """
    down, across = drawn_again(*table.shape, seed)
    means = ((down @ table) * across).sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(table.mean()), float(low), float(high)


@cache
def drawn_again(draws: int, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how much every row and every column counts in each sample, (S, draws) and (S, examples)."""
    rng = np.random.default_rng(seed)
    down = rng.multinomial(draws, np.full(draws, 1 / draws), size=SAMPLES) / draws
    across = rng.multinomial(examples, np.full(examples, 1 / examples), size=SAMPLES) / examples
    return down, across


def points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every method's accuracy, and its lead over the fine-tune on the draws that both have."""
    found = []
    for target in TARGETS:
        for method in METHODS:
            for count in COUNTS:
                own = table_of(rows, target, count, method)
                if not len(own):
                    continue
                value, low, high = interval(own)
                at = {"target": target, "method": method, "count": count, "draws": len(own)}
                point = {**at, "value": value, "low": low, "high": high}
                rival = table_of(rows, target, count, RIVAL)
                if method != RIVAL and rival.shape == own.shape:
                    lead = interval(own - rival)
                    point |= dict(zip(("lead", "lead_low", "lead_high"), lead, strict=True))
                found.append(point)
    return found


# --- the picture ---------------------------------------------------------------------------------

SOLID, DASHED, DOTTED = ((1, 0), "circle"), ((5, 3), "diamond"), ((2, 2), "triangle-up")
#: colour, dashes and shape
LOOKS = {
    "base": ("base", *SOLID),
    "expert": ("expert", *SOLID),
    "average": ("faint", *SOLID),
    "ties": ("good", *DASHED),
    "adamerging": ("expert", *DOTTED),
    "atlas": ("good", *SOLID),
    "search": ("expert", *DASHED),
    "fine-tune": ("merge", *SOLID),
    "fine-tune of expert": ("merge", *DASHED),
}


def chart(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the picture: accuracy above, lead over the fine-tune with its interval below, by labels."""
    from taskloom.runs.report.style import config, fixed

    told = [
        {
            **{k: 100 * v if k in POINTS else v for k, v in each.items()},
            "method": METHODS[each["method"]][0],
        }
        for each in found
    ]
    targets = [target for target in TARGETS if any(each["target"] == target for each in told)]
    above, below = [], []
    for number, target in enumerate(targets):
        own = [each for each in told if each["target"] == target]
        above.append(curves(own, TARGETS[target], first=number == 0))
        below.append(leads([each for each in own if "lead" in each], first=number == 0))
    return {
        **fixed([]),
        "vconcat": [{"hconcat": above, "spacing": 30}, {"hconcat": below, "spacing": 30}],
        "resolve": {"scale": {"color": "shared", "strokeDash": "shared"}},
        "config": config(),
    }


POINTS = ("value", "low", "high", "lead", "lead_low", "lead_high")
LEGEND = {"title": None, "orient": "top", "columns": 5, "symbolType": "stroke", "symbolSize": 300}


def look(first: bool) -> dict[str, Any]:
    """Return how methods are told apart: colour, dashes of lines, shape of points."""
    from taskloom.runs.report.theme import colour

    names = [METHODS[method][0] for method in LOOKS]
    ranges = {
        "color": [colour(hue) for hue, _, _ in LOOKS.values()],
        "strokeDash": [list(dash) for _, dash, _ in LOOKS.values()],
        "shape": [shape for _, _, shape in LOOKS.values()],
    }
    return {
        channel: {
            "field": "method",
            "type": "nominal",
            "scale": {"domain": names, "range": range_},
            "legend": LEGEND if first and channel != "shape" else None,
        }
        for channel, range_ in ranges.items()
    }


def along(title: str | None) -> dict[str, Any]:
    from taskloom.runs.report.style import axis

    return {
        "field": "count",
        "type": "ordinal",
        "scale": {"domain": list(COUNTS)},
        "axis": axis(title, labelAngle=0),
    }


def curves(rows: Sequence[Mapping[str, Any]], title: str, *, first: bool) -> dict[str, Any]:
    from taskloom.runs.report.style import axis

    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": axis("accuracy, %" if first else None, grid=True),
    }
    at = {"x": along(None), "y": y}
    looks = look(first)
    line = {key: looks[key] for key in ("color", "strokeDash")}
    dot = {key: looks[key] for key in ("color", "shape")}
    return {
        "title": {"text": title, "fontSize": 13, "fontWeight": "normal", "anchor": "start"},
        "data": {"values": list(rows)},
        "width": 330,
        "height": 230,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {**at, **line}},
            {
                "mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
                "encoding": {**at, **dot},
            },
        ],
    }


def leads(rows: Sequence[Mapping[str, Any]], *, first: bool) -> dict[str, Any]:
    from taskloom.runs.report.style import axis
    from taskloom.runs.report.theme import colour

    names = [METHODS[method][0] for method in LOOKS if method != RIVAL]
    x = along("labels of each class")
    offset = {"field": "method", "type": "nominal", "scale": {"domain": names}}
    y = {
        "type": "quantitative",
        "axis": axis("points above the fine-tune" if first else None, grid=True),
    }
    looks = look(False)
    at = {"x": x, "xOffset": offset, "color": looks["color"]}
    return {
        "data": {"values": list(rows)},
        "width": 330,
        "height": 190,
        "layer": [
            {
                "data": {"values": [{"zero": 0}]},
                "mark": {"type": "rule", "color": colour("merge"), "strokeWidth": 1.5},
                "encoding": {"y": {"field": "zero", "type": "quantitative"}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.8},
                "encoding": {**at, "y": {**y, "field": "lead_low"}, "y2": {"field": "lead_high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
                "encoding": {**at, "shape": looks["shape"], "y": {**y, "field": "lead"}},
            },
        ],
    }


# --- the page ------------------------------------------------------------------------------------


def page(found: Mapping[str, Any]) -> str:
    """Return the page, with tables of the rows there are."""
    rows = found["rows"]
    known = points(rows)
    by = {(p["target"], p["method"], p["count"]): p for p in known}
    listed = "\n".join(f"- **{name}**: {what}." for name, what in METHODS.values())
    tables = "\n".join(section(target, by, found) for target in TARGETS)
    most = max((point["draws"] for point in known), default=len(DRAWS))
    missing = len(TARGETS) * len(COUNTS) * len(METHODS) * len(DRAWS) - len(rows)
    even = len(rows) == most * len(TARGETS) * len(COUNTS) * len(METHODS)
    state = f" {missing} of the rows are not measured yet." if missing else ""
    if missing and even:
        state = f" Of {len(DRAWS)} draws {most} are measured."
    tests = " and ".join(
        f"{each['n']} ({name}, {each['classes']} classes)" for name, each in found["targets"].items()
    )
    machine = f" on {found['machine']}" if found["machine"] else ""
    measured = f" Test examples: {tests}." if tests else ""
    what = "Accuracy by labels of each class, and each method's lead over the fine-tune"
    drawn = f"![{what}](img/{PICTURE.name})\n\n" if rows else ""
    few = f"{most} draw{'s are' if most > 1 else ' is'} few, and the intervals do not know how few"
    return f"""# A few labels

<!-- written by: python benchmarks/few_shot.py page -->

How many labels of a new task does it take until fine-tuning is better than composing what eight experts
of other tasks know? Two targets that the pool does not hold, 1 to 64 labels of every class, everything
made and chosen by those labels alone.

{drawn}The encoder has 22.7 million parameters; the experts are those of the [text suite](claims.md).

{listed}

Heads are logistic regressions on each model's own features; a fine-tune keeps the head of its start.
What labels rank or choose is chosen by the scores that `taskloom auto` looks at experts with (scores
that hold examples out are left out where a class has one label). Intervals are of 95 % over draws of
labels and test examples together, each drawn again on its own (the pigeonhole bootstrap); {few}. A
difference in bold is beyond chance by itself; of so many some are so by luck.{measured}{state}

{tables}
Measured by `python benchmarks/few_shot.py measure`{machine}; the rows, with every single right and
wrong, are in `benchmarks/results/few_shot.json`.
"""


def section(
    target: str, by: Mapping[tuple[str, str, int], Mapping[str, Any]], found: Mapping[str, Any]
) -> str:
    """Return what is known of one target."""
    head = "| accuracy, % |" + "".join(f" {count} |" for count in COUNTS) + " seconds |"
    most = max((point["draws"] for point in by.values()), default=len(DRAWS))
    lines = [
        f"## {TARGETS[target]}",
        "",
        sentence(target, by),
        "",
        head,
        "|---|" + "---|" * (len(COUNTS) + 1),
    ]
    for method, (name, _) in METHODS.items():
        cells = [cell(by.get((target, method, count)), most) for count in COUNTS]
        spent = [r["seconds"] for r in found["rows"] if (r["target"], r["method"]) == (target, method)]
        took = f"{np.median(spent):.0f}" if spent else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {took} |")
    lines += ["", f"Points above the {RIVAL} on the same draws and examples:", ""]
    lines += ["| |" + "".join(f" {count} |" for count in COUNTS), "|---|" + "---|" * len(COUNTS)]
    for method, (name, _) in METHODS.items():
        if method != RIVAL:
            cells = [lead(by.get((target, method, count))) for count in COUNTS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(point: Mapping[str, Any] | None, most: int) -> str:
    """Write a point; in how many draws only if other points were measured in more."""
    if point is None:
        return "not measured yet"
    few = "" if point["draws"] == most else f", {point['draws']} of {len(DRAWS)} draws"
    return f"{100 * point['value']:.1f} ({100 * point['low']:.1f} to {100 * point['high']:.1f}{few})"


def lead(point: Mapping[str, Any] | None) -> str:
    if point is None or "lead" not in point:
        return "not measured yet"
    low, high = 100 * point["lead_low"], 100 * point["lead_high"]
    told = f"{100 * point['lead']:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{told}**" if low > 0 or high < 0 else told


def sentence(target: str, by: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> str:
    """Say which method leads for how many labels, and where the fine-tune is beaten beyond chance."""
    said = []
    for count in COUNTS:
        own = {method: by[target, method, count] for method in METHODS if (target, method, count) in by}
        if len(own) == len(METHODS):
            best = max(own, key=lambda method: own[method]["value"])
            said.append(f"{METHODS[best][0]} with {count} ({100 * own[best]['value']:.1f})")
    sure = [
        f"{METHODS[method][0]} with {', '.join(map(str, counts))}"
        for method in METHODS
        if (counts := [c for c in COUNTS if by.get((target, method, c), {}).get("lead_low", 0) > 0])
    ]
    if not any(place[0] == target for place in by):
        return "Not measured yet."
    if not said:
        return "No number of labels has been measured with every method yet."
    beaten = f" Beyond chance the {RIVAL} is beaten by {'; '.join(sure)}." if sure else (
        f" Nothing beats the {RIVAL} beyond chance."
    )  # fmt: skip
    return f"Highest: {', '.join(said)} labels of a class.{beaten}"


def main() -> None:
    """Read the words and do one thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["measure", "picture", "page"])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), choices=COUNTS)
    parser.add_argument("--draws", nargs="+", type=int, default=list(DRAWS), choices=DRAWS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.what == "measure":
        chosen = asked.targets, asked.counts, asked.draws, asked.methods
        measure(*chosen, asked.minutes, asked.output)
    elif asked.what == "picture":
        from taskloom.runs.report.drawing import save_chart

        save_chart(chart(points(read(asked.output)["rows"])), PICTURE)
        print(PICTURE)
    else:
        PAGE.write_text(page(read(asked.output)), encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
