"""Coefficients of Sens-Merging: one per expert and layer, from the headers of statistics alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from json import loads
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Need, Op, Stack, Step
from taskloom.errors import CheckpointError
from taskloom.lazy import torch

Grouping = Literal["block", "tensor"]


def layer_of(name: str, grouping: Grouping = "block") -> str:
    """Return the layer a tensor counts to: its numbered block, else its module, or itself.

    >>> layer_of("encoder.layer.3.output.dense.weight"), layer_of("embeddings.word.weight")
    ('encoder.layer.3', 'embeddings.word')
    """
    if grouping == "tensor":
        return name
    found = re.match(r"(?:.*?\.)??\d+(?=\.|$)", name)
    return found[0] if found else name.rpartition(".")[0] or name


def by_sensitivity(temperature: float = 1.0) -> Step:
    """Multiply each expert's rows by ``N softmax_i(a_i^l t_i / temperature)``, l the tensor's layer.

    ``a_i`` are the sensitivities of expert i over its layers divided by their Euclidean norm, ``t_i``
    its share of ``sum_j g_ij``, ``g_ij`` the mean distance between the outputs of experts i and j on the
    task of j (all shares equal if all distances are 0). With one expert the coefficient is 1.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a number above 0, not {temperature!r}")

    def weights_of(
        name: str, experts: tuple[str, ...], tables: Mapping[str, tuple[Mapping[str, str], ...]], _: Any
    ) -> NDArray[np.float64]:
        texts = tuple(
            (t.get("layers", ""), t.get("gaps", "{}"), t.get("grouping", "block"))
            for t in tables["sensitivity"]
        )
        names = {grouping for *_, grouping in texts}
        if len(names) > 1:
            raise CheckpointError(
                "statistics 'sensitivity' of the experts group tensors differently: "
                f"{', '.join(sorted(names))}",
                hint="Collect all with the same grouping",
            )
        scores, tasks = _parsed(experts, texts)
        layer = layer_of(name, "tensor" if names == {"tensor"} else "block")
        return coefficients(np.array([s.get(layer, 0.0) for s in scores]), tasks, temperature)

    def apply(stack: Stack, _: Any) -> Stack:
        weights = weights_of(stack.name, stack.experts, stack.tables, None)
        column = torch.from_numpy(weights).to(stack.values.dtype).to(stack.values.device)
        return stack.with_values(stack.values * column.reshape(-1, *[1] * (stack.values.ndim - 1)))

    need, op = Need("sensitivity", "table"), Op("weigh", told=weights_of)
    return Step(f"sensitivity({temperature:g})", apply, needs=(need,), op=op)


def coefficients(
    sensitivity: NDArray[np.float64], tasks: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Return ``N softmax(a t / T)`` over ``(N,)`` experts; 1 each where all arguments are equal.

    >>> coefficients(np.array([0.6, 0.948683]), np.array([2 / 3, 1 / 3]), 1.0).round(6).tolist()
    [1.041862, 0.958138]
    """
    raised = sensitivity * tasks / temperature
    powers = np.exp(raised - raised.max())
    found: NDArray[np.float64] = len(powers) * (powers / powers.sum())
    return found


@lru_cache(16)
def _parsed(
    experts: tuple[str, ...], texts: tuple[tuple[str, str, str], ...]
) -> tuple[list[dict[str, float]], NDArray[np.float64]]:
    """Sensitivities by layer at length 1, and the experts' shares of the distances."""
    scores = [_unit(_numbers(text, expert)) for (text, _, _), expert in zip(texts, experts, strict=True)]
    gaps = np.zeros(len(experts))
    for (_, text, _), owner in zip(texts, experts, strict=True):
        known = _numbers(text, owner)
        for number, other in enumerate(experts):
            if other == owner:
                continue
            if other not in known:
                raise CheckpointError(
                    f"statistic 'sensitivity' of the expert {owner!r} does not know how far {other!r} "
                    f"is on its task (it knows {', '.join(known) or 'no other expert'})",
                    hint=f"Collect it with --against {other}=PATH for every other expert",
                )
            gaps[number] += known[other]
    total = gaps.sum()
    return scores, gaps / total if total > 0 else np.full(len(experts), 1 / len(experts))


def _numbers(text: str, expert: str) -> dict[str, float]:
    try:
        found = {str(name): float(value) for name, value in loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        found = {}
        text = text or "nothing"
    if (not found and text != "{}") or any(not math.isfinite(v) or v < 0 for v in found.values()):
        raise CheckpointError(
            f"statistic 'sensitivity' of the expert {expert!r}: expected names and numbers of 0 or more "
            f"in the header, found {text[:60]!r}",
            hint="Collect the statistic again",
        )
    return found


def _unit(scores: Mapping[str, float]) -> dict[str, float]:
    norm = math.sqrt(sum(value * value for value in scores.values()))
    return {name: value / norm if norm else 0.0 for name, value in scores.items()}
