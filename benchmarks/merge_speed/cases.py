"""What is measured: one case per row of the table, with the limit it is held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A merge that both programs do.

    Attributes
    ----------
    method, options
        Ours.
    peer, peer_options
        mergekit's method, and parameters of the whole merge and of every expert.
    experts
        How many of the data's experts are merged.
    ratio
        Most of the peer's wall seconds that ours may take.
    floors, plus_torch
        Most floors that ours may take, with or without the time of importing torch added.
    cpu_ratio
        Most of the peer's CPU seconds that ours may take.
    issue
        The peer's wall (many tensors: CPU) seconds in the issue, where the peer is not run.
    """

    method: str
    peer: str
    data: str = "0.5B"
    experts: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    peer_options: dict[str, Any] = field(default_factory=dict)
    each: dict[str, Any] = field(default_factory=dict)
    ratio: float | None = None
    floors: float | None = None
    plus_torch: bool = True
    cpu_ratio: float | None = None
    issue: float | None = None


_WEIGHT = {"weight": 0.4}
_HALF = {"weight": 0.4, "density": 0.5}

CASES: dict[str, Case] = {
    "linear": Case(
        "average", "linear", each={"weight": 1.0}, ratio=1 / 3, floors=1.8, issue=6.9
    ),
    "task_arithmetic": Case(
        "task_arithmetic", "task_arithmetic", options={"scale": 0.4}, each=_WEIGHT,
        ratio=1 / 3, floors=1.8, issue=7.9,
    ),
    "slerp": Case(
        "slerp", "slerp", experts=2, options={"t": 0.4}, peer_options={"t": 0.4},
        ratio=1 / 3, floors=1.8, issue=11.0,
    ),
    "model_stock": Case("model_stock", "model_stock", ratio=1 / 3, issue=9.2),
    "nuslerp": Case("nuslerp", "nuslerp", experts=2, each={"weight": 0.5}, ratio=1 / 3),
    "dare_ties": Case(
        "dare_ties", "dare_ties", options={"p": 0.5}, each=_HALF, ratio=1 / 10, issue=28.8
    ),
    "della": Case(
        "della", "della", options={"density": 0.5, "epsilon": 0.1},
        each=_HALF | {"epsilon": 0.1}, ratio=1 / 10, issue=97.0,
    ),
    "breadcrumbs": Case(
        "breadcrumbs", "breadcrumbs", options={"remove": 0.01, "density": 0.5},
        each=_HALF | {"gamma": 0.01}, ratio=1 / 15, issue=75.0,
    ),
    "sce": Case(
        "sce", "sce", options={"select_topk": 0.5}, peer_options={"select_topk": 0.5},
        ratio=1 / 15, issue=145.0,
    ),
    "ties_tensor": Case(
        "ties", "ties", options={"density": 0.5, "scope": "tensor"}, each=_HALF, ratio=1 / 20, issue=80.0
    ),
    "ties_model": Case(
        "ties", "ties", options={"density": 0.5, "scope": "model"}, each=_HALF, ratio=1 / 10, issue=80.0
    ),
    "linear_1.5B": Case(
        "average", "linear", data="1.5B", each={"weight": 1.0}, ratio=1 / 2, floors=1.5,
        plus_torch=False,
    ),
    "task_arithmetic_1.5B": Case(
        "task_arithmetic", "task_arithmetic", data="1.5B", options={"scale": 0.4}, each=_WEIGHT,
        ratio=1 / 2, floors=1.5, plus_torch=False,
    ),
    "many_tensors": Case(
        "average", "linear", data="many", experts=2, each={"weight": 1.0}, cpu_ratio=1 / 50, issue=403.0
    ),
}  # fmt: skip

#: ours alone: name -> (case, changes); how cost grows
GROWTH: dict[str, tuple[str, dict[str, Any]]] = {
    "linear_6": ("linear", {"experts": 6}),
    "task_arithmetic_6": ("task_arithmetic", {"experts": 6}),
    "ties_tensor_6": ("ties_tensor", {"experts": 6}),
    "ties_model_6": ("ties_model", {"experts": 6}),
    "ties_tensor_1.5B": ("ties_tensor", {"data": "1.5B"}),
    "tensors_453": ("many_tensors", {"data": "many453"}),
    "tensors_3603": ("many_tensors", {"data": "many3603"}),
}

#: what `make.py` is asked for: folder -> (size, experts)
DATA: dict[str, tuple[str, int]] = {
    "0.5B": ("0.5B", 6),
    "1.5B": ("1.5B", 3),
    "many": ("many", 2),
    "many453": ("many453", 2),
    "many3603": ("many3603", 2),
    "tiny": ("tiny", 6),
}
