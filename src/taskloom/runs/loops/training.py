"""The options of training inside a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskloom.errors import PlanError
from taskloom.learn.options import TrainOptions

#: what a loop sets itself
OWN = ("method", "steps", "epochs", "seed", "patience", "train_head")


def training_options(given: Mapping[str, Any]) -> TrainOptions:
    """Validate options of training that a loop leaves open: batch size, learning rate, ...

    Raises
    ------
    PlanError
        One that the loop sets itself, an unknown one, or a value out of range.

    Examples
    --------
    >>> training_options({"batch_size": 16}).batch_size
    16
    """
    for name in OWN:
        if name in given:
            raise PlanError(
                f"training: {name!r} is set by the loop, found {given[name]!r}",
                hint="Give steps, rounds and seed to the loop; it tunes all weights under frozen heads",
            )
    return TrainOptions.parse(dict(given))
