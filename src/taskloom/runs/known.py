"""What a plan's merges must know first: statistics of the experts, and which of them make a soup.

Also whose inputs their batch norm is estimated on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from taskloom.algebra import Chain
from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.task import get_task
from taskloom.learn.collect import collect
from taskloom.learn.probe import Examples, Probe, Setting
from taskloom.merging.soup import greedy_soup
from taskloom.runs.batchnorm import BatchNorm
from taskloom.runs.mixtures import front, taken
from taskloom.runs.result import FrontRecord
from taskloom.store.pool import Expert, Pool
from taskloom.store.statistic import Statistic, open_statistic

if TYPE_CHECKING:
    from taskloom.runs.plan import Merge
    from taskloom.runs.sweep import Bench

#: training examples per expert that a run collects a statistic from
EXAMPLES = 256


@dataclass(frozen=True)
class Sampling:
    """On how many training examples, and with which options, a statistic is collected."""

    examples: int = EXAMPLES
    options: Mapping[str, Any] = field(default_factory=dict)


def statistics_for(
    pool: Pool,
    chain: Chain,
    bench: Bench,
    how: Mapping[str, Sampling] = MappingProxyType({}),
) -> Mapping[str, list[Statistic]] | None:
    """Collect what a chain needs of every expert, or take it from the stash; None if it needs nothing.

    With the defaults of the statistic, on at most 256 training examples of the expert's task, drawn
    with the plan's seed; unless ``how`` says otherwise of it, by its name.

    Raises
    ------
    PlanError
        An expert whose task is not known.
    """
    kinds = [need.kind for need in chain.needs]
    if not kinds:
        return None
    return {
        expert.name: [_one(pool, expert, kind, bench, how.get(kind, Sampling())) for kind in kinds]
        for expert in pool.experts
    }


def _one(pool: Pool, expert: Expert, kind: str, bench: Bench, how: Sampling) -> Statistic:
    data = _task(expert, bench)
    others = [e for e in pool.experts if e is not expert] if _compares(kind) else []
    key = [
        kind,
        expert.checkpoint.digest(),
        pool.yardstick.digest(),
        [[e.name, e.checkpoint.digest()] for e in others],
        data.digest,
        bench.heads[data.task.name].digest(),
        bench.digest,
        how.examples,
        dict(how.options),
    ]
    path = bench.workspace.entry("statistics", key, ".safetensors")
    if path.is_file():
        bench.workspace.count("statistics", skipped=True)
        return open_statistic(path)
    head, encoder = bench.heads[data.task.name], bench.encoder
    probe = Probe.of_encoder(
        encoder,
        head,
        weights=_read(expert),
        digest=expert.checkpoint.digest(),
        label=expert.checkpoint.label,
    )
    seed = bench.plan.seed
    batches = Examples.of_task(
        encoder, head, (data.train.inputs, data.train.labels), count=how.examples, seed=seed
    )
    setting = Setting(
        probe,
        batches,
        base=None if pool.base is None else _inside(bench, Expert("base", pool.base)),
        against={other.name: _inside(bench, other) for other in others},
        progress=bench.progress,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    collect(kind, setting, **how.options).save(path)
    bench.workspace.count("statistics", skipped=False)
    return open_statistic(path)


def _compares(kind: str) -> bool:
    """Whether the other experts are run too, which costs as much as the expert itself."""
    return kind == "sensitivity"


def _task(expert: Expert, bench: Bench) -> TaskData:
    for data in bench.tasks:
        if data.task.name in (expert.task, expert.name):
            return data
    raise PlanError(
        f"the task of the expert {expert.name!r} is not known, and its statistics need examples",
        hint="Take a method that needs none",
    )


def _read(expert: Expert) -> dict[str, Any]:
    return {name: expert.checkpoint.read(name) for name in expert.checkpoint.tensors}


def _inside(bench: Bench, expert: Expert) -> dict[str, Any]:
    return {name: t for name, t in _read(expert).items() if name in bench.encoder.names}


def batch_norm(item: Merge, bench: Bench) -> BatchNorm | None:
    """Return what estimates the batch norm of a merge anew, if the plan asks for it."""
    if not item.reestimate_batchnorm:
        return None
    names = {get_task(task).name for task in item.reestimate_batchnorm}
    tasks = [data for data in bench.tasks if data.task.name in names]
    return BatchNorm(bench.encoder, tasks, bench.plan.seed)


def front_of(pool: Pool, item: Merge, bench: Bench) -> FrontRecord | None:
    """Return what was tried for a rewarded soup, from the stash if it is there."""
    return front(pool, item, bench, batch_norm(item, bench))


def soup_options(pool: Pool, item: Merge, bench: Bench) -> Mapping[str, Any]:
    """Choose the ingredients of a greedy soup by the mean validation score over the pool's tasks.

    And the mixture of a rewarded soup by the plan's rewards. Empty for other methods, and where the plan
    names ingredients or a preference itself.
    """
    tried = front_of(pool, item, bench)
    if tried is not None:
        return {"preference": taken(tried)}
    if item.method != "greedy_soup" or item.options.get("ingredients"):
        return {}
    members = [[e.name, e.checkpoint.digest()] for e in pool.experts]
    norm = batch_norm(item, bench)

    def taste(weights: Mapping[str, Any]) -> float:
        own = weights if norm is None else {**weights, **norm.estimate(weights)}
        return float(np.mean([value for value, *_ in bench.validate(own)]))

    chosen: list[str] = bench.workspace.remember(
        "soups",
        [members, bench.digest, *([] if norm is None else [norm.digest])],
        lambda: list(greedy_soup(pool.experts, taste, progress=bench.progress).ingredients),
    )
    return {"ingredients": tuple(chosen)}
