"""Where in a model something sits, and where the same place is in another model."""

from __future__ import annotations

import re
from collections.abc import Container

from torch import nn

from taskloom.errors import PlanError, nearest


def blocks_of(model: nn.Module, pattern: str | None) -> list[str]:
    """Return the names of a model's blocks in order.

    Parameters
    ----------
    pattern
        A regular expression that the whole name of a block matches; None for the members of the
        longest ``ModuleList``.

    Raises
    ------
    PlanError
        Nothing matches, or there is no ``ModuleList``.
    """
    if pattern is not None:
        return matching(model, pattern, "blocks")
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise PlanError(
            f"{type(model).__name__} has no list of blocks",
            hint="Name its blocks with the option 'blocks', a regular expression",
        )
    name, longest = max(lists, key=lambda each: len(each[1]))
    return [f"{name}.{number}" if name else str(number) for number in range(len(longest))]


def matching(model: nn.Module, pattern: str, option: str) -> list[str]:
    """Return the names of the submodules that a regular expression matches whole.

    Raises
    ------
    PlanError
        No regular expression, or nothing matches.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise PlanError(f"option {option!r} is {pattern!r}, no regular expression: {error}") from None
    found = [name for name, _ in model.named_modules() if name and wanted.fullmatch(name)]
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        guess = nearest(pattern, names)
        raise PlanError(
            f"option {option!r} is {pattern!r}, but no module of {type(model).__name__} is called so",
            hint=f"The nearest name is {guess!r}" if guess else "Look at model.named_modules()",
        )
    return found


def find_place(model: nn.Module, place: str) -> str:
    """Return what a place is called in a model that may lie inside another, or have lain in one.

    ``encoder.layer.0`` of a BERT is ``bert.encoder.layer.0`` in one with a head on top.

    Raises
    ------
    PlanError
        There is no such place.
    """
    names = {name for name, _ in model.named_modules()}
    found = _within(model, names, place)
    if found is not None:
        return found
    guess = nearest(place, names)
    raise PlanError(
        f"the module was fitted at {place!r}, which {type(model).__name__} does not have",
        hint=f"Give a model of the same kind; its nearest name is {guess!r}"
        if guess
        else "Give a model of the same kind",
    )


def find_tensor(model: nn.Module, names: Container[str], name: str) -> str:
    """Return what a tensor is called in a model that may lie inside another, or have lain in one.

    Raises
    ------
    PlanError
        There is no such tensor.
    """
    found = _within(model, names, name)
    if found is None:
        raise PlanError(
            f"the module was fitted on a model with the tensor {name!r}, which "
            f"{type(model).__name__} does not have",
            hint="Give a model of the same kind",
        )
    return found


def _within(model: nn.Module, names: Container[str], name: str) -> str | None:
    inner = str(getattr(model, "base_model_prefix", ""))
    tried = (name, f"{inner}.{name}", name.removeprefix(f"{inner}."))
    return next((each for each in tried if each in names), None)


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix: ``nn.Linear``, or the ``Conv1D`` of transformers."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
