"""Which examples are train, validation and test: by content, with duplicates taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.errors import DataError
from taskloom.evaluation.data import Examples
from taskloom.evaluation.duplicates import near_duplicates
from taskloom.evaluation.examples import content_keys
from taskloom.evaluation.rows import Row, column, keyed_order, shortened
from taskloom.evaluation.task import Fractions, Given, Task

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Parts:
    """Indices of the examples of each split, and how many were taken out."""

    train: list[int]
    validation: list[int]
    test: list[int]
    removed_duplicates: int
    removed_repeats: int


def split_examples(task: Task, rows: Sequence[Row], examples: Examples) -> Parts:
    """Assign every example to a split, drop repeats, near-duplicates and other subsets.

    Test examples never depend on ``task.subset``: every subset is judged on the same ones.

    Raises
    ------
    DataError
        A row names a split that the annotation does not know.
    """
    keys = content_keys(examples)
    group = task.split.group
    units = keys if group is None else [str(column(row, group)) for row in rows]
    assigned = _assign(task.split, rows, units)
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    for i, split in enumerate(assigned):
        if (split, keys[i]) not in seen:
            seen.add((split, keys[i]))
            parts[split].append(i)
    repeats = len(keys) - len(seen)
    if task.subset is not None:
        chosen = task.subset
        for split in ("train", "validation"):
            parts[split] = [
                i for i in parts[split] if keyed_order(units[i], "subset") % chosen.parts == chosen.part
            ]
    removed = _remove_duplicates(task, examples, keys, parts)
    return Parts(parts["train"], parts["validation"], parts["test"], removed, repeats)


def _assign(rule: Fractions | Given, rows: Sequence[Row], units: Sequence[str]) -> list[str]:
    if isinstance(rule, Fractions):
        return [_by_hash(unit, rule.seed, rule.validation, rule.test) for unit in units]
    meaning = {rule.train: "train", rule.test: "test"}
    if rule.validation is not None:
        meaning[rule.validation] = "validation"
    assigned: list[str] = []
    for i, row in enumerate(rows):
        value = str(column(row, rule.column))
        if value not in meaning:
            raise DataError(
                f"row {i + 1} has the split {value!r}, declared are {shortened(meaning)}",
                hint="Name it under 'split', or drop its rows with a 'keep' rule",
            )
        split = meaning[value]
        if split == "train" and rule.validation is None:
            split = _by_hash(units[i], rule.seed, rule.validation_share, 0.0)
        assigned.append(split)
    return assigned


def _by_hash(unit: str, seed: int, validation: float, test: float) -> str:
    place = keyed_order(unit, "split", seed) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def _remove_duplicates(
    task: Task, examples: Examples, keys: Sequence[str], parts: dict[str, list[int]]
) -> int:
    """Take out of train what is like validation or test, and out of validation what is like test."""
    removed = 0
    for split, later in (("validation", ["test"]), ("train", ["validation", "test"])):
        held_out = [i for other in later for i in parts[other]]
        if isinstance(examples.inputs, list):
            texts = examples.inputs
            found = near_duplicates(
                [texts[i] for i in parts[split]], [texts[i] for i in held_out], task.near_duplicate
            )
        else:
            known = {keys[i] for i in held_out}
            found = [place for place, i in enumerate(parts[split]) if keys[i] in known]
        gone = set(found)
        parts[split] = [i for place, i in enumerate(parts[split]) if place not in gone]
        removed += len(gone)
    return removed
