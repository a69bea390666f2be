"""Stacks for tests: make, cut into slices, run a step over several tensors as the executor does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from taskloom.algebra import Stack, Step


def make(values: object, *, name: str = "w", experts: Iterable[str] | None = None) -> Stack:
    tensor = values if isinstance(values, Tensor) else torch.tensor(values)
    names = tuple(experts) if experts else tuple("abcdefghijklmnopqrstuvwxyz"[: len(tensor)])
    return Stack(name, tensor, names, 0, tensor[0].numel())


def cut_up(stack: Stack, rows: int) -> list[Stack]:
    """Slices of ``rows`` along the tensor's first axis."""
    width = stack.values[0, 0].numel() if stack.values.shape[1] else 0
    return [
        Stack(stack.name, stack.values[:, i : i + rows], stack.experts, i * width, stack.numel)
        for i in range(0, stack.values.shape[1], rows)
    ]


def measured(step: Step, stacks: Iterable[Stack]) -> object:
    """Run a step's rounds over the stacks in the order given."""
    assert step.measure is not None
    stacks, found = list(stacks), None
    for round_ in range(step.measure.rounds):
        found = step.measure.start(round_, found)
        for stack in stacks:
            found = step.measure.see(found, stack)
    return step.measure.done(found)


def run(step: Step, tensors: Mapping[str, Tensor] | Tensor) -> dict[str, np.ndarray]:
    """Apply a step to whole tensors ``(K, ...)``."""
    named = tensors if isinstance(tensors, Mapping) else {"w": tensors}
    stacks = {name: make(values, name=name) for name, values in named.items()}
    statistic = measured(step, stacks.values()) if step.measure else None
    return {name: step.apply(stack, statistic).values.numpy() for name, stack in stacks.items()}


#: float32 numbers with many equal magnitudes, zeros of both signs, denormals and extremes
awkward = st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 3e-39, 1e-30, 0.5, -0.5, 0.5000001, 1.0, -1.0, 2.0, 1e30, -3e38]
)
floats = st.one_of(awkward, st.floats(width=32, allow_nan=False, allow_infinity=False))


def arrays(experts: int, n: int) -> st.SearchStrategy[np.ndarray]:
    one = st.lists(floats, min_size=experts * n, max_size=experts * n)
    return one.map(lambda xs: np.array(xs, dtype=np.float32).reshape(experts, n))
