"""Keeps, task by task, the numbers that come nearest to the expert on inputs that are not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Nearest:
    """Looks at every task when an epoch of its inputs has ended, and at the start.

    Parameters
    ----------
    parameters
        What is fitted, moved in place.
    parts
        Task -> names of the parameters that are the task's alone; what is not named stays at its last.
        Tasks that are left out are not looked at.
    epochs
        Task -> steps of an epoch.
    distance
        Task -> how far the numbers as they are leave it from its expert.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        parts: Mapping[str, Sequence[str]],
        epochs: Mapping[str, int],
        distance: Callable[[str], float],
    ) -> None:
        self._parameters, self._parts = parameters, parts
        self._epochs, self._distance = epochs, distance
        self._kept: dict[str, Tensor] = {}
        self._found: dict[str, tuple[int, float]] = {}
        for task in parts:
            self._consider(task, 0)

    def watch(self, done: int) -> None:
        """Look at the tasks of which an epoch has ended after as many steps."""
        for task in self._parts:
            if done % self._epochs[task] == 0:
                self._consider(task, done)

    def _consider(self, task: str, done: int) -> None:
        found = self._distance(task)
        if task not in self._found or found < self._found[task][1]:
            self._found[task] = done, found
            for key in self._parts[task]:
                self._kept[key] = self._parameters[key].detach().clone()

    def put_back(self) -> None:
        """Make the nearest numbers the ones that there are."""
        with torch.no_grad():
            for key, tensor in self._kept.items():
                self._parameters[key].copy_(tensor)

    def told(self) -> dict[str, str]:
        """Say what is kept."""
        return {
            f"kept {task}": f"step {step}, distance {value:.6g} on validation inputs"
            for task, (step, value) in self._found.items()
        }

    def save(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what an interrupted fit needs."""
        return self._kept, {task: list(found) for task, found in self._found.items()}

    def resume(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Take it back."""
        self._kept = dict(tensors)
        self._found = {task: (int(step), float(value)) for task, (step, value) in told.items()}
