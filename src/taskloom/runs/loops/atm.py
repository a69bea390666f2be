"""ATM: alternate short tuning and merging."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from taskloom.registry import register
from taskloom.runs.loops.compare import joint, one_shot, start_alone
from taskloom.runs.loops.journal import Made
from taskloom.runs.loops.merging import merge_round
from taskloom.runs.loops.method import Plan, Setting
from taskloom.runs.loops.workshop import derived


@register(
    "loop",
    paper="Zhou et al., ATM: Improving Model Merging by Alternating Tuning and Merging, 2024",
    needs=("training data of all tasks",),
    partly={"ATM": "shown on small made-up problems; no measurement on real tasks yet"},
)
def atm(
    on: Setting,
    *,
    rounds: Annotated[int, Field(ge=1)] = 10,
    steps: Annotated[int, Field(ge=1)] = 20,
    recipe: str = "average",
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Alternate short tuning on every task and merging.

    Every round tunes one copy of the current model per task and merges the copies into the next one;
    the optimiser starts anew and heads stay frozen. Full-batch gradient descent of one step a round,
    summed (``recipe: task_arithmetic``, ``options: {scale: 1}``), is multi-task gradient descent.

    The paper's update is ``theta + lambda * agg(tau)``; ``average`` is the mean with lambda 1 (computed
    as the mean of the weights). No official release was found; a working repository of one of the
    authors was read: orders of whole epochs, a mean aggregator, scale 1, optimiser and schedule fresh
    for every fine-tuning, frozen heads. Its evaluation takes task vectors against the pretrained model;
    we follow the paper, where every round starts from the last merge. A round is counted in steps, not
    in epochs, so that tasks of unequal size take equally many.

    Equation
    --------
    θᵣ₊₁ = θᵣ + λ · agg(τ₁, …, τ_K) with τₖ = tune(θᵣ, task k) - θᵣ

    When to use
    -----------
    Data of all tasks can be visited again and again, but never pooled.

    When not
    --------
    Without training data; a one-shot merge of ready experts is no rival at equal cost, as its experts
    were trained elsewhere.

    Parameters
    ----------
    rounds
        How often to tune and merge. More rounds of the same loop go on where it stopped.
    steps
        Optimiser steps per task and round.
    recipe
        Registered merging method.
    options
        Its options.
    """

    def turn(number: int, start: Path, target: Path) -> Made:
        tuned = {
            task: on.shop.tune(
                start, {task: 1.0}, steps=steps, seed=derived(on.seed, "round", number, task)
            )
            for task in on.tasks
        }
        merged = merge_round(start, tuned, target, recipe=recipe, options=options, progress=on.progress)
        return Made(merged, sum(each.steps for each in tuned.values()))

    total = rounds * steps
    return Plan(
        rounds=rounds,
        turn=turn,
        compared={
            "start": lambda _: start_alone(on),
            "joint": lambda _: joint(on, dict.fromkeys(on.tasks, 1.0), total * len(on.tasks)),
            "one-shot": lambda _: one_shot(on, total, recipe, options),
        },
    )
