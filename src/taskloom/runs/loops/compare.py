"""What a loop is compared with, at equal data and compute: as many steps of batches of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.runs.loops.merging import merge_round
from taskloom.runs.loops.method import Rival, Setting
from taskloom.runs.loops.workshop import derived


def start_alone(on: Setting, judged: Sequence[str] | None = None) -> Rival:
    """Return the model that the loop started from."""
    return Rival("the start, not tuned", 0, on.shop.read(on.start, judged))


def joint(
    on: Setting,
    mix: Mapping[str, float],
    steps: int,
    judges: Sequence[str] = (),
) -> Rival:
    """Return one model tuned on mixed data, ``steps`` in all, shared as ``mix`` says.

    With ``judges`` the best weights on their validation are kept, and only they are scored.
    """
    tuned = on.shop.tune(on.start, mix, steps=steps, seed=derived(on.seed, "joint", *mix), judges=judges)
    what = " and ".join([", ".join([*mix][:-1]), [*mix][-1]] if len(mix) > 1 else list(mix))
    shares = "equal shares of " if len(mix) > 1 and len(set(mix.values())) == 1 else ""
    return Rival(f"tuned on {shares}{what}", tuned.steps, on.shop.read(tuned.path, judges or None))


def one_shot(
    on: Setting, steps: int, recipe: str = "average", options: Mapping[str, Any] | None = None
) -> Rival:
    """Return one merge of experts that were tuned for ``steps`` each from the start."""
    tuned = {
        task: on.shop.tune(on.start, {task: 1.0}, steps=steps, seed=derived(on.seed, "expert", task))
        for task in on.tasks
    }
    target = on.scratch / "one-shot"
    merge_round(on.start, tuned, target, recipe=recipe, options=options, progress=on.progress)
    total = sum(each.steps for each in tuned.values())
    return Rival(f"{recipe} of experts of {steps} steps each", total, on.shop.read(target))
