"""Collect a statistic by name, with where it comes from written beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from taskloom import __version__
from taskloom.errors import NumericalError
from taskloom.learn.probe import Setting
from taskloom.registry import get
from taskloom.store.statistic import Statistic

#: tensors by stored name, and what holds for the model as a whole
Collected = tuple[dict[str, Tensor], dict[str, str]]


def collect(statistic: str, setting: Setting, **options: Any) -> Statistic:
    """Run examples through a model and return what a statistic keeps of them.

    Examples are run in the order of their batches, so equal calls give equal bytes.

    Parameters
    ----------
    statistic
        ``fisher``, ``gram``, ``sensitivity`` or ``graft``; see ``taskloom methods statistic``.
    setting
        Model, examples, and what else the statistic compares with.
    **options
        Options of the statistic.

    Raises
    ------
    UnknownName, PlanError
        No such statistic or option, or a value out of range.
    DataError
        No examples, or none with labels for a statistic that needs them.
    NumericalError
        NaN or infinity came out.
    """
    entry = get("statistic", statistic)
    checked = entry.validate(options)
    function: Callable[..., Collected] = entry.function
    tensors, table = function(setting, **checked)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumericalError(
                f"{statistic} of {setting.probe.label}: tensor {name!r} holds NaN or infinity",
                hint="Check the weights and the examples",
            )
    return Statistic.of(statistic, tensors, **provenance(setting, entry.schema(**checked)), **table)


def provenance(setting: Setting, options: Any) -> dict[str, str]:
    """Return what the header says of the making of a statistic."""
    said: Mapping[str, Any] = options.model_dump(mode="json")
    return {
        "model": setting.probe.label,
        "model_digest": setting.probe.digest,
        "examples": str(setting.batches.count),
        "options": json.dumps(said, sort_keys=True),
        "taskloom": __version__,
        "torch": str(torch.__version__),
    }
