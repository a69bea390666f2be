"""The rewarded soup of a plan: every mixture scored on validation, the front, and the one taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import comb
from typing import TYPE_CHECKING

from torch import Tensor

from taskloom.errors import PlanError
from taskloom.evaluation.task import get_task
from taskloom.merging.soup import rewarded_soup
from taskloom.runs.result import FrontRecord, MixtureRecord
from taskloom.store.pool import Pool

if TYPE_CHECKING:
    from taskloom.runs.batchnorm import BatchNorm
    from taskloom.runs.plan import Merge
    from taskloom.runs.sweep import Bench

#: most mixtures that a plan tries
MOST = 1000


def check_rewards(item: Merge, names: list[str]) -> None:
    """Refuse rewards that name no tasks of the pool, weigh nothing, or make too many mixtures.

    Parameters
    ----------
    names
        Of the pool's tasks, one expert each.
    """
    rewards = [get_task(task).name for task in item.rewards]
    for name in rewards:
        if name not in names:
            raise PlanError(
                f"{item.label}: the reward {name!r} is not a task of the pool",
                hint=f"Take some of {', '.join(names)}",
            )
    if rewards and (len(set(rewards)) < 2 or not sum(item.rewards.values())):
        raise PlanError(
            f"{item.label}: a front is drawn over two rewards or more, of which one has a weight",
            hint="Give two tasks of the pool and their weights",
        )
    count = comb(item.levels + len(names) - 2, len(names) - 1)
    if rewards and count > MOST:
        raise PlanError(
            f"{item.label}: {item.levels} levels of {len(names)} experts are {count} mixtures, and a "
            f"plan tries {MOST} at most",
            hint="Take fewer levels, or fewer experts",
        )


def front(pool: Pool, item: Merge, bench: Bench, norm: BatchNorm | None = None) -> FrontRecord | None:
    """Score every mixture on the validation examples of the rewards; None if the plan asks for none.

    Taken is the mixture with the highest sum of scores by the weights of the rewards; of equals, the
    first. ``norm`` estimates the batch norm of every mixture anew.
    """
    if not item.rewards:
        return None
    wanted = {get_task(task).name: weight for task, weight in item.rewards.items()}
    benches = {
        data.task.name: replace(bench, tasks=[data]) for data in bench.tasks if data.task.name in wanted
    }
    members = [[e.name, e.checkpoint.digest()] for e in pool.experts]

    def scored() -> list[dict[str, object]]:
        ends: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in benches}

        def reward(name: str) -> Callable[[Mapping[str, Tensor]], float]:
            def of(weights: Mapping[str, Tensor]) -> float:
                own = weights if norm is None else {**weights, **norm.estimate(weights)}
                ends[name] += benches[name].validate(own)
                return ends[name][-1][0]

            return of

        found = rewarded_soup(
            pool.experts,
            {name: reward(name) for name in benches},
            levels=item.levels,
            progress=bench.progress,
        )
        best = found.mixtures.index(found.best(wanted))
        return [
            {
                "weights": list(mixture.weights),
                "rewards": list(mixture.rewards),
                "low": [ends[name][number][1] for name in benches],
                "high": [ends[name][number][2] for name in benches],
                "n": [ends[name][number][3] for name in benches],
                "on_front": mixture.on_front,
                "chosen": number == best,
            }
            for number, mixture in enumerate(found.mixtures)
        ]

    key = [members, item.levels, wanted, {name: each.digest for name, each in benches.items()}]
    key += [] if norm is None else [norm.digest]
    rows = bench.workspace.remember("fronts", key, scored)
    return FrontRecord(
        method=item.label,
        experts=list(pool.names),
        rewards=list(benches),
        mixtures=[MixtureRecord.model_validate(row) for row in rows],
    )


def taken(found: FrontRecord) -> dict[str, float]:
    """Return the weights of the mixture that is taken, by the experts' names."""
    (chosen,) = [mixture for mixture in found.mixtures if mixture.chosen]
    return dict(zip(found.experts, chosen.weights, strict=True))
