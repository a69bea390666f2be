"""What a looping method is given, and what it returns: a turn to repeat, and what to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskloom.progress import Progress, silent
from taskloom.runs.loops.journal import Turn
from taskloom.runs.loops.workshop import Reading, Workshop


@dataclass(frozen=True)
class Setting:
    """What a method works with.

    Attributes
    ----------
    shop
        Tunes and scores.
    tasks
        In order; those of the shop.
    start
        Directory of the model before the first round.
    scratch
        Folder for models that are compared with; removed at the end.
    seed, progress
        As everywhere.
    """

    shop: Workshop
    tasks: tuple[str, ...]
    start: Path
    scratch: Path
    seed: int = 0
    progress: Progress = silent


@dataclass(frozen=True)
class Rival:
    """Something that a loop is compared with.

    Attributes
    ----------
    what
        How it was made, in words.
    steps
        Optimiser steps it took.
    reading
        Its scores.
    mine
        The loop's own where it is not the model as it is that is compared, but what is made of it.
    """

    what: str
    steps: int
    reading: Reading
    mine: Reading | None = None


@dataclass(frozen=True)
class Plan:
    """A loop to be carried out.

    Attributes
    ----------
    rounds
        How many.
    turn
        Makes one round.
    compared
        What makes each rival, by name, given the loop's last model.
    shop
        Scores the rounds; the setting's if None.
    judged
        The tasks whose scores count; all if empty.
    notes
        What else is to be said of the result.
    """

    rounds: int
    turn: Turn
    compared: Mapping[str, Callable[[Path], Rival]] = field(default_factory=dict)
    shop: Workshop | None = None
    judged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
