"""Sensitivity of layers, and distances between experts' outputs."""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taskloom.algebra.sensitive import Grouping, layer_of
from taskloom.learn.probe import Setting, labels_of
from taskloom.registry import register


@register(
    "statistic",
    paper="Liu et al., Sens-Merging, Findings of ACL 2025 (arXiv 2502.12420), section 3",
    needs=("labels",),
)
def sensitivity(
    on: Setting, *, grouping: Grouping = "block"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Mean over examples of ``sum |theta_p dL/dtheta_p|`` per tensor and layer, L the expert's loss.

    With other experts to compare with (``--against``), also the mean Euclidean distance of their
    outputs from the expert's, on its task and under its head. The merge needs that of every pair.

    The paper uses 100 examples. There is no released code; the absolute value is taken before the
    sum, as a third party does.

    Parameters
    ----------
    grouping
        What is a layer: a numbered block (and else a module), or a tensor.
    """
    probe = on.probe
    leaves = probe.leaves()
    sums = dict.fromkeys(leaves, 0.0)
    distance = dict.fromkeys(on.against, 0.0)
    done = 0
    for inputs, label in on.batches.singles():
        logits = probe.logits(inputs, leaves).float()
        loss = cross_entropy(logits, labels_of(label, "sensitivity"))
        (found,) = probe.gradients([loss], leaves)
        for name, gradient in found.items():
            sums[name] += float((leaves[name].detach() * gradient).abs().double().sum())
        with torch.no_grad():
            for other, weights in on.against.items():
                gap = probe.logits(inputs, weights).float() - logits.detach()
                distance[other] += float(torch.linalg.vector_norm(gap.double()))
        done += 1
        on.progress("sensitivity", done, on.batches.count)
    layers: dict[str, list[float]] = {}
    for name, total in sums.items():
        layers.setdefault(layer_of(name, grouping), []).append(total / done)
    scores = {name: torch.tensor(total / done) for name, total in sums.items()}
    table = {
        "layers": json.dumps({layer: math.fsum(parts) for layer, parts in layers.items()}),
        "gaps": json.dumps({other: total / done for other, total in distance.items()}),
        "grouping": grouping,
    }
    return scores, table
