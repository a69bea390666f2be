"""Learned sparse masks: the few changed weights that carry a skill."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from taskloom.errors import PlanError
from taskloom.learn.probe import Setting, labels_of
from taskloom.registry import register

Tensors = dict[str, Tensor]


@register(
    "statistic",
    paper="Panigrahi et al., Task-specific skill localization in fine-tuned language models, ICML 2023, "
    "section 2 and appendix",
    needs=("labels",),
)
def graft(
    on: Setting,
    *,
    sparsity: Annotated[float, Field(gt=0, le=1)] = 1e-5,
    steps: Annotated[int, Field(ge=0)] = 100,
    learning_rate: Annotated[float, Field(gt=0)] = 1e7,
    bias: float = 10.0,
    leave_out: str = r"(^|\.)(\w*embed\w*|lm_head|classifier|head)(\.|$)",
    variant: Literal["paper", "released"] = "paper",
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Learn which entries of the change to graft onto the base so that the task is still solved.

    Starts from the largest changes g_0 and moves ``g = g_0 + (1 - 2 g_0) sigma(S - bias)``, S uniform in
    [0, 1) at first, down the gradient of the loss of the grafted model ``theta_0 + g (theta - theta_0)``
    over all examples; g is rounded, and the mask with the highest accuracy on the examples is kept.
    Booleans, one per entry; embeddings and heads are left out.

    ``variant="released"`` starts from changes strictly above the k-th largest, one fewer than the k of
    the paper. Released code adds the accuracy on validation examples when it chooses; here the examples
    are all there is. The learning rate is that large because sigma'(-10) is 4.5e-5.

    Parameters
    ----------
    sparsity
        Share of all entries that the mask starts with: ``int(sparsity * P)``, 1 at least.
    steps
        Gradient steps, each over all examples; 0 for the largest changes alone.
    learning_rate, bias
        As above.
    leave_out
        Tensors whose name matches are not grafted.
    variant
        How many of the largest changes the mask starts with.
    seed
        Of S.
    """
    if on.base is None:
        raise PlanError(
            "the statistic 'graft' compares the expert with its base, and none was given",
            hint="Give --base",
        )
    probe = on.probe
    names = [name for name in probe.trained if not re.search(leave_out, name)]
    if not names:
        raise PlanError(
            f"graft: leave_out {leave_out!r} leaves no tensor of {probe.label}",
            hint="Give a narrower pattern",
        )
    base = {name: on.base[name].float() for name in probe.trained}
    delta = {name: probe.weights[name].float() - base[name] for name in names}
    first = largest(delta, sparsity, strict=variant == "released")
    generator = torch.Generator().manual_seed(seed)
    soft = {name: torch.rand(delta[name].shape, generator=generator) for name in names}
    best, best_right = first, _right(on, _grafted(base, delta, first))
    for step in range(steps):
        gradient = _gradient(on, _grafted(base, delta, gates(first, soft, bias)))
        for name in names:
            up = rise(first[name], soft[name], gradient[name] * delta[name], bias)
            soft[name] = soft[name] - learning_rate * up
        rounded = {name: gate.round() for name, gate in gates(first, soft, bias).items()}
        right = _right(on, _grafted(base, delta, rounded))
        if right > best_right:
            best, best_right = rounded, right
        on.progress("graft", step + 1, steps)
    total = sum(d.numel() for d in delta.values())
    kept = int(sum(float(mask.sum()) for mask in best.values()))
    table = {"kept": str(kept), "of": str(total), "accuracy": repr(best_right / on.batches.count)}
    return {name: mask.bool() for name, mask in best.items()}, table


def largest(delta: Tensors, share: float, *, strict: bool = False) -> Tensors:
    """Return 1 for the ``int(share * P)`` entries of largest magnitude over all tensors, 1 at least.

    Of equal ones the first come first; ``strict`` keeps those above the smallest of these only.
    """
    flat = torch.cat([d.reshape(-1).abs() for d in delta.values()])
    count = max(1, int(share * len(flat)))
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    marks = torch.zeros_like(flat)
    if strict:
        marks[flat > flat[order[-1]]] = 1.0
    else:
        marks[order] = 1.0
    parts = torch.split(marks, [d.numel() for d in delta.values()])
    return {name: part.reshape(d.shape) for (name, d), part in zip(delta.items(), parts, strict=True)}


def gates(first: Tensors, soft: Tensors, bias: float) -> Tensors:
    """Return ``g_0 + (1 - 2 g_0) sigma(S - bias)``."""
    return {n: g + (1 - 2 * g) * torch.sigmoid(soft[n] - bias) for n, g in first.items()}


def rise(first: Tensor, soft: Tensor, change: Tensor, bias: float) -> Tensor:
    """Return the gradient of the loss by S, from that by the gates, ``change``."""
    slope = torch.sigmoid(soft - bias)
    return (1 - 2 * first) * change * slope * (1 - slope)


def _grafted(base: Tensors, delta: Tensors, mask: Tensors) -> Tensors:
    return {n: b + mask[n] * delta[n] if n in delta else b for n, b in base.items()}


def _gradient(on: Setting, weights: Tensors) -> Tensors:
    """Gradient of the mean loss over batches, as the released code averages them."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for inputs, labels in on.batches:
        loss = cross_entropy(on.probe.logits(inputs, leaves).float(), labels_of(labels, "graft"))
        (found,) = on.probe.gradients([loss], leaves)
        for name, gradient in found.items():
            sums[name] += gradient
        count += 1
    return {name: total / count for name, total in sums.items()}


def _right(on: Setting, weights: Tensors) -> int:
    """Examples that the grafted model gets right."""
    with torch.no_grad():
        return sum(
            int((on.probe.logits(inputs, weights).argmax(1) == labels_of(labels, "graft")).sum())
            for inputs, labels in on.batches
        )
