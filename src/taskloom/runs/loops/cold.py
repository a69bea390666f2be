"""ColD fusion, simulated: contributors are sampled each round, tune the shared base, are averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from taskloom.errors import PlanError, nearest
from taskloom.registry import register
from taskloom.runs.loops.compare import joint, one_shot, start_alone
from taskloom.runs.loops.journal import Made
from taskloom.runs.loops.merging import merge_round
from taskloom.runs.loops.method import Plan, Rival, Setting
from taskloom.runs.loops.workshop import Reading, Workshop, derived


@register(
    "loop",
    paper="Don-Yehiya et al., ColD Fusion: Collaborative Descent for Distributed Multitask Finetuning, "
    "ACL 2023",
    needs=("training data of all tasks, each kept local",),
    partly={"ColD Fusion": "shown on small made-up problems; no measurement on real tasks yet"},
)
def cold(
    on: Setting,
    *,
    rounds: Annotated[int, Field(ge=1)] = 10,
    steps: Annotated[int, Field(ge=1)] = 50,
    contributors: Annotated[int, Field(ge=1)] | None = None,
    unseen: tuple[str, ...] = (),
    probe_steps: Annotated[int, Field(ge=1)] = 50,
) -> Plan:
    """Contributors tune the shared base on data of their own, and the server averages them.

    Every round some tasks are drawn; each fits a head of its own on the current base, tunes a copy
    under it, and gives the body back; the mean of the bodies is the next base. Scores are linear probes
    of the base (the paper's ColD-Frozen). On ``unseen`` tasks, which nobody contributes, the base is
    also compared as a start for fine-tuning with the base of the beginning.

    As section 3 of the paper, equal weights whatever the size of a data set. The paper's contributors
    train a new head along with the body; ours is fitted by logistic regression and frozen meanwhile. No
    official code was found. In earnest contributors are processes or machines of their own, which
    exchange weights only: ``taskloom cold``.

    Equation
    --------
    θᵢ₊₁ = 1/|C| · Σ_c tune(θᵢ, data of c)

    When to use
    -----------
    Data cannot leave their owners, and a common start is to become better for all.

    When not
    --------
    Data can be pooled.

    Parameters
    ----------
    rounds
        How often to tune and average.
    steps
        Optimiser steps of a contributor in a round.
    contributors
        How many tasks are drawn each round; all if None (the paper: 8 of 35).
    unseen
        Tasks that are held out.
    probe_steps
        Optimiser steps of the fine-tuning on unseen tasks.

    Raises
    ------
    PlanError
        An unseen task that is no task, or more contributors than tasks.
    """
    seen = _seen(on, unseen, contributors)
    shop = on.shop.probing()
    number_of = contributors or len(seen)

    def turn(number: int, start: Path, target: Path) -> Made:
        rng = np.random.default_rng(derived(on.seed, "draw", number))
        drawn = sorted(rng.choice(len(seen), size=number_of, replace=False).tolist())
        tuned = {
            seen[place]: shop.tune(
                start,
                {seen[place]: 1.0},
                steps=steps,
                # the seed that a contributor of its own takes for the same round
                seed=derived(on.seed, "cold", number - 1, seen[place]),
            )
            for place in drawn
        }
        merged = merge_round(start, dict(sorted(tuned.items())), target, progress=on.progress)
        return Made(merged, sum(each.steps for each in tuned.values()))

    total = rounds * steps * number_of
    probing = Setting(shop, seen, on.start, on.scratch, on.seed, on.progress)
    plan = Plan(
        rounds=rounds,
        turn=turn,
        shop=shop,
        compared={
            "start": lambda _: start_alone(probing),
            "joint": lambda _: joint(probing, dict.fromkeys(seen, 1.0), total),
            "fused once": lambda _: one_shot(probing, max(1, total // len(seen))),
        },
    )
    for task in unseen:
        plan = _with(plan, task, shop, on, probe_steps)
    return plan


def _with(plan: Plan, task: str, shop: Workshop, on: Setting, steps: int) -> Plan:
    """Add the comparison of both bases as a start for fine-tuning on an unseen task."""

    def tuned(model: Path) -> Reading:
        found = shop.tune(model, {task: 1.0}, steps=steps, seed=derived(on.seed, "unseen", task))
        return shop.read(found.path, [task])

    def rival(model: Path) -> Rival:
        what = f"the start, fine-tuned on {task} for {steps} steps as the loop's base is"
        return Rival(what, steps, tuned(on.start), mine=tuned(model))

    return replace(plan, compared={**plan.compared, f"start for {task}": rival})


def _seen(on: Setting, unseen: tuple[str, ...], contributors: int | None) -> tuple[str, ...]:
    for task in unseen:
        if task not in on.tasks:
            guess = nearest(task, on.tasks)
            raise PlanError(
                f"cold: the unseen task {task!r} is not among the tasks {', '.join(on.tasks)}",
                hint=f"Did you mean {guess!r}?" if guess else "Name it as a task too",
            )
    seen = tuple(task for task in on.tasks if task not in unseen)
    if len(seen) < max(contributors or 1, 2):
        raise PlanError(
            f"cold: expected {max(contributors or 1, 2)} tasks to contribute, found {len(seen)}",
            hint="Name more tasks, or draw fewer",
        )
    return seen
