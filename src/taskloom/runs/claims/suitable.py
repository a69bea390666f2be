"""Which merging methods fit what somebody has, from what methods are registered to need.

>>> [entry.name for entry in suitable("unlabeled", "one task", parts=False)][-1]
'fisher'
"""

from __future__ import annotations

from typing import Literal, get_args

from taskloom import registry
from taskloom.registry import Entry
from taskloom.runs.claims.claim import FAMILIES, Merges, record

#: beside the weights; each includes what stands before it
Have = Literal["nothing", "unlabeled", "labels"]
Experts = Literal["full", "lora", "one task"]
HAVE: tuple[Have, ...] = get_args(Have)
EXPERTS: tuple[Experts, ...] = get_args(Experts)
_DATA: dict[str, Have] = {"unlabeled inputs": "unlabeled", "labels": "labels", "validation": "labels"}
#: what the experts are -> what a method must be meant for
_MEANT: dict[Experts, set[Merges]] = {
    "full": {"tasks"},
    "lora": {"tasks"},
    "one task": {"one task", "one run"},
}


def data_needed(entry: Entry) -> Have:
    """Return what a method needs beside weights: its statistics' needs are its own.

    >>> [data_needed(registry.get("merge", name)) for name in ("ties", "regmean", "greedy_soup")]
    ['nothing', 'unlabeled', 'labels']
    """
    needs = [*entry.needs]
    for need in entry.needs:
        kind, _, name = need.partition(" ")
        if kind == "statistic":
            needs += registry.get("statistic", name).needs
    return max((_DATA[need] for need in needs if need in _DATA), key=HAVE.index, default="nothing")


def keeps_parts(entry: Entry) -> bool:
    """Tell whether the method makes a model for each task from parts that are kept for it."""
    return "task" in entry.schema.model_fields


def fits(entry: Entry, have: Have, experts: Experts, *, parts: bool = True) -> bool:
    """Tell whether a merging method can be run by somebody, and is meant for such experts."""
    if HAVE.index(data_needed(entry)) > HAVE.index(have) or (keeps_parts(entry) and not parts):
        return False
    if "adapters" in entry.needs and experts != "lora":
        return False
    return bool(_MEANT[experts] & {*record(entry.name).merges})


def suitable(have: Have, experts: Experts, *, parts: bool = True) -> list[Entry]:
    """Return the merging methods that fit, family by family.

    Parameters
    ----------
    have
        Data beside the weights: none, unlabeled inputs of every task, or a few labels of every task.
    experts
        Full fine-tunes of different tasks, LoRA adapters of different tasks, or models of one task.
    parts
        Whether a mask or a low-rank part may be kept for every task, which then must be known.

    Examples
    --------
    >>> "copa_merging" in [entry.name for entry in suitable("nothing", "lora")]
    True
    """
    found = [each for each in registry.entries("merge") if fits(each, have, experts, parts=parts)]
    return sorted(found, key=lambda each: (FAMILIES.index(record(each.name).family), each.name))
