"""Diagonal Fisher information: how much each weight's change would change what the model says."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from taskloom.learn.probe import Setting, labels_of
from taskloom.registry import register


@register(
    "statistic",
    paper="Matena and Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022, eq. 3",
    needs=("unlabeled inputs",),
)
def fisher(
    on: Setting, *, labels: Literal["exact", "sampled", "given"] = "exact", seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Mean over examples of the squared gradient of the log likelihood, for every parameter.

    ``F_p = mean_x E_y[(d log p(y|x) / d theta_p)^2]``, y as the model expects it: one forward and C
    backward passes per example, C classes.

    Paper and released code take the expectation over y exactly. MergeLM and FusionBench square the
    gradient of a whole batch's ``sum sqrt(p) log p``, which keeps products between classes and
    examples and is far from it; we do not have that.

    Parameters
    ----------
    labels
        ``"exact"``: every class, weighted by its probability. ``"sampled"``: one class drawn by the
        model, for many classes. ``"given"``: the examples' labels (the empirical Fisher).
    seed
        Of the draws.
    """
    probe = on.probe
    leaves = probe.leaves()
    sums = {name: torch.zeros_like(weight) for name, weight in leaves.items()}
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for inputs, label in on.batches.singles():
        logs = log_softmax(probe.logits(inputs, leaves)[0].float(), dim=-1)
        chances = logs.detach().exp()
        if labels == "exact":
            classes = list(range(len(logs)))
            shares = chances.tolist()
        else:
            drawn = (
                torch.multinomial(chances, 1, generator=generator)
                if labels == "sampled"
                else labels_of(label, "fisher")
            )
            classes, shares = [int(drawn[0])], [1.0]
        for share, found in zip(
            shares, probe.gradients([logs[c] for c in classes], leaves), strict=True
        ):
            for name, gradient in found.items():
                sums[name] += share * gradient.detach().square()
        done += 1
        on.progress("fisher", done, on.batches.count)
    mean = {name: total / done for name, total in sums.items()}
    norm = math.sqrt(math.fsum(float(f.double().square().sum()) for f in mean.values()))
    return mean, {"norm": repr(norm)}
