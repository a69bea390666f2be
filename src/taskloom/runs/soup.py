"""``taskloom.soup``: soups that are tasted on the validation examples of tasks.

A greedy soup takes in the experts that do not make it worse; a rewarded soup scores every mixture on a
grid and shows which are beaten by none. What was chosen is then held against base, experts, average and
fine-tune on validation examples that chose nothing. Test splits stay sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.score import Score, score
from taskloom.evaluation.task import get_task
from taskloom.lazy import Tensor
from taskloom.merging.api import merge_files
from taskloom.merging.soup import RewardedSoups, greedy_soup, rewarded_soup
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs.auto.ground import halved
from taskloom.runs.desk import Desk, Sources, by_name_or_order, open_desk
from taskloom.runs.front import save_front
from taskloom.runs.guarding import AVERAGE, BASE, TUNED, Contest, guard_composition, tell
from taskloom.runs.judging import Guarded, Mode, check_mode
from taskloom.runs.plan import Limits
from taskloom.runs.seen import FEW, Held, deal, few_shot
from taskloom.runs.trying import Merges
from taskloom.runs.verdict import mean_interval
from taskloom.store.atomic import refuse_existing
from taskloom.store.pool import Pool, open_pool

Kind = Literal["greedy", "rewarded"]
#: what the guard calls the chosen soup
SOUP = "soup"


@dataclass(frozen=True)
class Tasted:
    """One soup that was scored.

    Attributes
    ----------
    weights
        Of every expert, adding up to 1.
    scores
        On the validation examples of every task.
    value, low, high
        Mean of the scores, with its 95 % interval.
    kept
        Greedy: whether the soup went on from here; rewarded: whether nothing beats it everywhere.
    """

    weights: Mapping[str, float]
    scores: tuple[Score, ...]
    value: float
    low: float
    high: float
    kept: bool


@dataclass(frozen=True)
class Soup:
    """What was tasted, in order, and what was chosen.

    Attributes
    ----------
    kind, experts, tasks
        Which soup, of what, on what.
    tasted
        Greedy: every expert alone, best first, then every soup that was tried. Rewarded: the grid.
    chosen
        The greedy soup; the mixture that the preference leads to, None if there is no preference.
    preference
        Weight of every task in the choice of a rewarded soup, or None.
    path
        Where the verdict's winner was written, if it was; without a verdict the chosen soup.
    picture
        Where the front was drawn, if it was.
    verdict
        How the chosen soup stands against its rivals on validation examples that chose nothing.
    unjudged
        Why there is no verdict.
    """

    kind: Kind
    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    tasted: tuple[Tasted, ...]
    chosen: Tasted | None
    preference: Mapping[str, float] | None = None
    path: Path | str | None = None
    picture: Path | None = None
    verdict: Guarded | None = None
    unjudged: str = ""

    @property
    def front(self) -> tuple[Tasted, ...]:
        """The mixtures that are beaten by none (rewarded)."""
        return tuple(each for each in self.tasted if each.kept)

    def table(self) -> list[dict[str, Any]]:
        """Return one row per soup: weights, score with interval and n by task, and the mean."""
        rows = []
        for number, each in enumerate(self.tasted):
            row: dict[str, Any] = {"soup": number}
            row |= {f"weight {name}": each.weights[name] for name in self.experts}
            for s in each.scores:
                row |= {s.task: s.value, f"{s.task} low": s.low, f"{s.task} high": s.high}
                row[f"{s.task} n"] = s.n
            row |= {"mean": each.value, "low": each.low, "high": each.high, "kept": each.kept}
            rows.append(row)
        return rows


def soup(
    kind: Kind,
    tasks: Sequence[str],
    base: str,
    experts: Sources,
    *,
    levels: int = 11,
    ties: bool = True,
    preference: Mapping[str, float] | None = None,
    output: str | Path | None = None,
    picture: str | Path | None = None,
    guard: Mode | None = "warn",
    tune: Mapping[str, Any] | None = None,
    tuned: bool = True,
    overwrite: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Soup:
    """Taste soups of experts on validation, hold the chosen one against its rivals, and write who wins.

    Heads are fitted on the base's features, one per task, so that every soup is scored by the same.
    With a guard, one half of the validation examples, classes in their shares, chooses, and the other
    judges; so it is where there are 20 labels a class or more on average, training and validation
    together. With fewer, and where nothing is chosen, all are tasted on and nothing is judged.

    Parameters
    ----------
    kind
        ``"greedy"`` (Wortsman et al., ICML 2022): experts in order of their mean score are averaged in
        where the mean does not fall. ``"rewarded"`` (Rame et al., NeurIPS 2023): every weighting on a
        grid over the simplex is scored on every task, the rewards.
    tasks
        Registered tasks, or paths of annotations.
    base
        Directory or hub id the experts were tuned from.
    experts
        Directories, hub ids or adapters of one base, in order or by name.
    levels
        Of the grid: steps from 0 to 1 along every edge.
    ties
        Greedy: keep an expert that leaves the mean as it is, as the paper does; False: released code.
    preference
        Rewarded: weight of each task in the choice of one mixture; not needed for the sweep alone.
    output
        Directory to write the chosen soup to.
    picture
        Rewarded: PNG or SVG file of the front over the first two tasks.
    guard
        ``"strict"`` writes whoever wins, be it a single expert or the fine-tune; ``"warn"`` writes the
        soup, and says what it loses to; None tastes on all validation examples and judges on none.
    tune, tuned
        Options of the fine-tune that the soup is held against, and whether there is one; see
        `taskloom.runs.guarding.guard_composition`.
    overwrite
        Replace an existing output.
    limits
        Most examples of each split; the plan's defaults if None.

    Raises
    ------
    PlanError
        No tasks, a task twice, fewer than two experts, options that do not go together, an expert that
        is called as a rival is.
    UnknownName, DataError, CheckpointError, OutputError
        A name that is not registered, data or weights that do not fit, an output that exists.
    """
    names = [get_task(task).name for task in tasks]
    _check(kind, names, preference, output, picture)
    if guard is not None:
        check_mode(guard)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    desk = open_desk(base, seed=seed, progress=progress)
    sources, given = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=given)
    if len(pool.names) < 2:
        raise PlanError("a soup is made of two experts or more, and there is one", hint="Give another")
    loaded = [desk.load(task, limits or Limits()) for task in tasks]
    unjudged = _unjudged(guard, kind, preference, loaded)
    tasting, judging = (loaded, []) if unjudged else _apart(loaded, pool, seed)
    taster = Taster(desk, tasting, {data.task.name: desk.head(data) for data in loaded})
    if kind == "greedy":
        found = _greedy(pool, taster, ties, progress)
    else:
        found, grid = _rewarded(pool, taster, levels, preference, progress)
        if picture is not None:
            save_front(grid, picture)
    contest = None
    if guard is not None and judging:
        contest = _judge(found, pool, desk, judging, guard, tune, tuned, progress)
    where: Path | str | None = None
    if output is not None and found.chosen is not None:
        if contest is not None and contest.verdict.winner != SOUP:
            where = contest.write(contest.verdict.winner, output, overwrite=overwrite)
        else:
            where = _write(found, desk, pool, output, overwrite, progress)
            if contest is not None and Path(where).is_dir():
                tell(where, contest)
    return replace(
        found,
        tasks=tuple(names),
        preference=preference,
        path=where,
        picture=None if picture is None else Path(picture),
        verdict=None if contest is None else contest.verdict,
        unjudged=unjudged,
    )


def _unjudged(
    guard: Mode | None, kind: str, preference: Mapping[str, float] | None, loaded: Sequence[TaskData]
) -> str:
    """Return why nothing can be judged; empty if something can."""
    if guard is None:
        return "no guard was asked for"
    if kind == "rewarded" and preference is None:
        return "no mixture was chosen"
    if few_shot(loaded):
        return f"a task has fewer than {FEW} labels a class, of which none is left to judge on"
    return ""


def _apart(loaded: Sequence[TaskData], pool: Pool, seed: int) -> tuple[list[TaskData], list[TaskData]]:
    """Return the tasks with one half of their validation examples, which choose, and with the other."""
    for taken in (BASE, AVERAGE, TUNED, SOUP):
        if taken in pool.names:
            raise PlanError(
                f"an expert is called {taken!r}, which means another model here", hint="Rename it"
            )
    tasting, judging = [], []
    for data in loaded:
        rows = np.arange(len(data.validation))
        halves = halved(data.validation.labels, rows, seed)
        one, two = (replace(data, validation=data.validation.take(half)) for half in halves)
        tasting.append(one)
        judging.append(two)
    return tasting, judging


def _judge(
    found: Soup,
    pool: Pool,
    desk: Desk,
    judging: Sequence[TaskData],
    guard: Mode,
    tune: Mapping[str, Any] | None,
    tuned: bool,
    progress: Progress,
) -> Contest:
    """Hold the chosen soup against its rivals on validation examples that it was not chosen on."""
    dealt = deal(desk, pool, judging)
    held = Held(dealt.final, {data.task.name: data.validation for data in judging})
    merges, options = Merges(pool), _options(found)
    return guard_composition(
        replace(dealt, held=(held,)),
        {SOUP: lambda seen: seen.model(merges(f"{found.kind}_soup", options))},
        mode=guard,
        tune=tune,
        tuned=tuned,
        progress=progress,
    )


def _options(found: Soup) -> dict[str, Any]:
    """Return the chosen soup as options of the merging method of its name."""
    assert found.chosen is not None
    if found.kind == "greedy":
        return {"ingredients": [name for name, weight in found.chosen.weights.items() if weight]}
    return {"preference": dict(found.chosen.weights)}


def _check(
    kind: str,
    names: Sequence[str],
    preference: Mapping[str, float] | None,
    output: str | Path | None,
    picture: str | Path | None,
) -> None:
    if kind not in ("greedy", "rewarded"):
        raise PlanError(f"there is no soup {kind!r}", hint="Take greedy or rewarded")
    if not names:
        raise PlanError("a soup is tasted on one task or more, and there is none", hint="Name a task")
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once")
    if kind == "greedy" and (preference is not None or picture is not None):
        raise PlanError("a preference and a picture belong to a rewarded soup", hint="Leave them out")
    for name, weight in (preference or {}).items():
        if name not in names:
            raise PlanError(f"the preference names {name!r}, but the tasks are {', '.join(names)}")
        if not 0 <= weight < float("inf"):
            raise PlanError(f"the preference for {name!r} is {weight!r}, where a weight >= 0 is needed")
    if preference is not None and not sum(preference.values()):
        raise PlanError("the preference gives no task any weight", hint="Give one a weight above 0")
    if kind == "rewarded" and output is not None and preference is None:
        raise PlanError(
            "a rewarded soup is many models until a preference chooses one",
            hint="Give the weight of every task (--prefer TASK=WEIGHT), or leave the output out",
        )
    if picture is not None:
        if len(names) < 2:
            raise PlanError("a front is drawn over two tasks, and there is one", hint="Name another")
        if Path(picture).suffix not in (".png", ".svg"):
            raise PlanError(f"{picture}: expected a name that ends with .png or .svg", hint="Rename it")


@dataclass(frozen=True)
class Taster:
    """Scores weights on the validation examples of tasks, each with one head for all weights."""

    desk: Desk
    tasks: Sequence[TaskData]
    heads: Mapping[str, Head]

    def score(self, weights: Mapping[str, Tensor], data: TaskData) -> Score:
        """Return the validation score of one task."""
        reader = self.desk.reader
        features = reader.encoder.features(
            data.validation.inputs,
            weights=weights,
            batch_size=reader.options.batch_size,
            precision=reader.options.precision,
        )
        name, seed = data.task.name, self.desk.seed
        predicted = self.heads[name].predict(features)
        labels, metric = data.validation.labels, data.task.metric
        return score(labels, predicted, metric=metric, split="validation", seed=seed, task=name)


def tasted(weights: Mapping[str, float], scores: Sequence[Score], *, kept: bool) -> Tasted:
    """Return scores with their mean."""
    low, high = mean_interval([(s.value, s.low, s.high) for s in scores])
    mean = sum(s.value for s in scores) / len(scores)
    return Tasted(dict(weights), tuple(scores), mean, low, high, kept)


def _greedy(pool: Pool, taster: Taster, ties: bool, progress: Progress) -> Soup:
    scored: list[list[Score]] = []

    def mean(weights: Mapping[str, Tensor]) -> float:
        scored.append([taster.score(weights, data) for data in taster.tasks])
        return sum(s.value for s in scored[-1]) / len(taster.tasks)

    found = greedy_soup(pool.experts, mean, ties=ties, progress=progress)
    alone = dict(zip(pool.names, scored, strict=False))
    soups = scored[len(pool.names) :]
    best, *others = found.singles
    rows = [tasted(_equal(pool, [name]), alone[name], kept=name == best) for name in (best, *others)]
    chosen, last = [best], tasted(_equal(pool, [best]), alone[best], kept=True)
    for (name, _, kept), scores in zip(found.tried, soups, strict=True):
        row = tasted(_equal(pool, [*chosen, name]), scores, kept=kept)
        rows.append(row)
        if kept:
            chosen, last = [*chosen, name], row
    return Soup("greedy", pool.names, (), tuple(rows), last)


def _equal(pool: Pool, names: Sequence[str]) -> dict[str, float]:
    return {name: 1 / len(names) if name in names else 0.0 for name in pool.names}


def _rewarded(
    pool: Pool,
    taster: Taster,
    levels: int,
    preference: Mapping[str, float] | None,
    progress: Progress,
) -> tuple[Soup, RewardedSoups]:
    scored: dict[str, list[Score]] = {data.task.name: [] for data in taster.tasks}

    def reward(data: TaskData) -> Callable[[Mapping[str, Tensor]], float]:
        def of(weights: Mapping[str, Tensor]) -> float:
            found = taster.score(weights, data)
            scored[data.task.name].append(found)
            return found.value

        return of

    rewards = {data.task.name: reward(data) for data in taster.tasks}
    grid = rewarded_soup(pool.experts, rewards, levels=levels, progress=progress)
    rows = [
        tasted(dict(zip(pool.names, mixture.weights, strict=True)), scores, kept=mixture.on_front)
        for mixture, scores in zip(grid.mixtures, zip(*scored.values(), strict=True), strict=True)
    ]
    chosen = None
    if preference is not None:
        chosen = rows[grid.mixtures.index(grid.best(preference))]
    return Soup("rewarded", pool.names, (), tuple(rows), chosen), grid


def _write(
    found: Soup, desk: Desk, pool: Pool, output: str | Path, overwrite: bool, progress: Progress
) -> Path | str:
    """Merge the chosen soup to disk, by the method of its name."""
    report = merge_files(
        desk.reader.encoder.directory,
        {expert.name: expert for expert in pool.experts},
        f"{found.kind}_soup",
        output,
        overwrite=overwrite,
        progress=progress,
        **_options(found),
    )
    return report.path
