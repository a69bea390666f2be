"""ForkMerge: fork by task weights, merge with coefficients searched on the targets' validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from taskloom.errors import PlanError, nearest
from taskloom.merging.api import merge
from taskloom.registry import register
from taskloom.runs.loops.coefficients import ALPHAS, Found, search_coefficients
from taskloom.runs.loops.compare import joint, start_alone
from taskloom.runs.loops.journal import Made
from taskloom.runs.loops.merging import merge_round
from taskloom.runs.loops.method import Plan, Setting
from taskloom.runs.loops.workshop import Tuned, derived
from taskloom.store.atomic import write_json

Share = Annotated[float, Field(ge=0, le=1)]


@register(
    "loop",
    paper="Jiang et al., ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning, "
    "NeurIPS 2023",
    needs=("training data of target and auxiliary tasks", "target validation data"),
    partly={"ForkMerge": "shown on small made-up problems; no measurement on real tasks yet"},
)
def forkmerge(
    on: Setting,
    *,
    targets: tuple[str, ...],
    rounds: Annotated[int, Field(ge=1)] = 4,
    steps: Annotated[int, Field(ge=1)] = 50,
    top: tuple[Annotated[int, Field(ge=0)], ...] = (0, 3, 5),
    rank_steps: Annotated[int, Field(ge=1)] = 20,
    alphas: tuple[Share, ...] = ALPHAS,
) -> Plan:
    """Fork into branches of different task weights, and merge what the targets' validation favours.

    Auxiliary tasks are ranked once, by the targets' validation score after ``rank_steps`` of joint
    training with each. Branch K trains on the targets and the best K auxiliary tasks; branch 0, the
    targets alone, is what keeps out negative transfer. After every ``steps`` the branches are merged
    with the coefficients of `search_coefficients`, and all go on from the merge.

    As in the released code (its shares ``1 / targets`` and ``1 / K``, its greedy search, all floating
    tensors averaged). We differ: tasks take turns by their shares exactly, where the code draws them at
    random; optimiser and schedule start anew in every round, where the code's go on; the best weights
    of a branch are those of this round, where the code may bring back an earlier round's; each K above
    the number of auxiliary tasks is that number, and equal branches are one; heads stay frozen. The
    best weights of a branch are chosen by accuracy, branches and merges compared by each target's own
    metric. Without a branch that has some but not all auxiliary tasks nothing is ranked.

    Equation
    --------
    θ = Σ_b Λ_b θ_b, Λ on the simplex by greedy search of the targets' validation score

    When to use
    -----------
    One task counts, others may help or harm it, and labels of all are at hand.

    When not
    --------
    All tasks count alike (atm, joint training).

    Parameters
    ----------
    targets
        Tasks that count; the others are auxiliary.
    rounds
        How often to fork and merge.
    steps
        Optimiser steps per branch and round.
    top
        Numbers of auxiliary tasks of the branches.
    rank_steps
        Optimiser steps of each joint training that ranks.
    alphas
        Shares that the search tries.

    Raises
    ------
    PlanError
        A target that is no task, no auxiliary task, or no branch.
    """
    names = _checked(on, targets, top)
    auxiliary = tuple(task for task in on.tasks if task not in names)
    goal = dict.fromkeys(names, 1 / len(names))

    counts = tuple(dict.fromkeys(min(each, len(auxiliary)) for each in top))
    # the order matters only to a branch with some of the auxiliary tasks
    ranks = any(0 < count < len(auxiliary) for count in counts)

    def turn(number: int, start: Path, target: Path) -> Made:
        order = _ranking(on, names, auxiliary, rank_steps, target.parent) if ranks else auxiliary
        spent = rank_steps * len(auxiliary) if ranks and number == 1 else 0
        tuned: dict[str, Tuned] = {}
        for count in counts:
            mix = goal | dict.fromkeys(order[:count], 1 / max(count, 1))
            tuned[f"top {count}"] = on.shop.tune(
                start,
                mix,
                steps=steps,
                seed=derived(on.seed, "round", number, count),
                judges=names,
            )
            on.progress("branches", len(tuned), len(counts))
        found = search_branches(on, tuned, names, alphas)
        merged = merge_round(
            start, tuned, target, options={"weights": list(found.weights)}, progress=on.progress
        )
        tried = tuple(
            {
                **dict(zip(tuned, each.weights, strict=True)),
                "value": each.value,
                "kept": each.kept,
            }
            for each in found.trials
        )
        return Made(merged, spent + sum(each.steps for each in tuned.values()), tried)

    total = rounds * steps
    return Plan(
        rounds=rounds,
        turn=turn,
        judged=names,
        compared={
            "start": lambda _: start_alone(on, names),
            "single-task": lambda _: joint(on, goal, total, names),
            "equal-weight": lambda _: joint(on, dict.fromkeys(on.tasks, 1.0), total, names),
        },
    )


def search_branches(
    on: Setting, tuned: Mapping[str, Tuned], targets: Sequence[str], alphas: Sequence[float] = ALPHAS
) -> Found:
    """Search the coefficients of a merge of tuned branches on the targets' validation examples."""
    paths = [each.path for each in tuned.values()]
    values = [on.shop.read(path, targets).mean for path in paths]
    tried = 0

    def score(weights: tuple[float, ...]) -> float:
        nonlocal tried
        tried += 1
        on.progress("search coefficients", tried, None)
        return on.shop.read(merge(None, paths, "average", weights=list(weights)), targets).mean

    return search_coefficients(values, score, alphas)


def _ranking(
    on: Setting, targets: Sequence[str], auxiliary: Sequence[str], steps: int, folder: Path
) -> tuple[str, ...]:
    """Rank auxiliary tasks, the best first, or find the ranking again."""
    note = folder / "ranking.json"
    try:
        values: dict[str, float] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}
        for task in auxiliary:
            mix = {**dict.fromkeys(targets, 1 / len(targets)), task: 1.0}
            seed = derived(on.seed, "rank", task)
            tuned = on.shop.tune(on.start, mix, steps=steps, seed=seed, judges=targets)
            values[task] = on.shop.read(tuned.path, targets).mean
            on.progress("rank auxiliary tasks", len(values), len(auxiliary))
        write_json(note, values)
    return tuple(sorted(auxiliary, key=lambda task: -values[task]))


def _checked(on: Setting, targets: Sequence[str], top: Sequence[int]) -> tuple[str, ...]:
    for target in targets:
        if target not in on.tasks:
            guess = nearest(target, on.tasks)
            raise PlanError(
                f"forkmerge: the target {target!r} is not among the tasks {', '.join(on.tasks)}",
                hint=f"Did you mean {guess!r}?" if guess else "Name it as a task",
            )
    names = tuple(dict.fromkeys(targets))
    if not names or len(names) == len(on.tasks):
        raise PlanError(
            f"forkmerge: expected targets and auxiliary tasks, found {len(names)} targets among "
            f"{len(on.tasks)} tasks",
            hint="Name the tasks that count as targets, and others beside them",
        )
    if not top:
        raise PlanError("forkmerge: there is no branch (top)", hint="Write top: [0, 3, 5]")
    return names
