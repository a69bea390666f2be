"""LoRA Soups (CAT): adapters of single skills side by side, their weights learned layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.adapters import Sources, adapter_edits
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Descent, descend
from taskloom.learn.modules.kit.ending import edited_logits
from taskloom.learn.modules.kit.losses import labelled_loss
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batches_of, keyed, weights_for
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint


@register(
    "module",
    paper="Prabhakar et al., LoRA Soups: merging LoRAs for practical skill composition tasks, 2024",
    needs=("labels", "adapters"),
    partly={
        "LoRA Soups (CAT)": "the learned concatenation is there, and on two skills of SmolLM2-135M it "
        "beats averaging and TIES, but not training on mixed data (docs/skills.md)"
    },
)
def cat(
    on: Problem,
    merged: Checkpoint,
    *,
    epochs: Annotated[int, Field(ge=0)] = 1,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2,
    warmup: Annotated[int, Field(ge=0)] = 0,
    start: Literal["equal", "random"] = "equal",
    normalise: bool = True,
) -> FittedModule:
    """Learn, per layer, how much of every adapter's change is added.

    ``y = W_0 x + sum_k w_k (alpha_k / r_k) B_k A_k x`` with ``w = softmax(s)`` over the adapters of a
    layer, and only s is trained, by cross-entropy on a mix of the skills' labelled examples. No factor
    of one adapter meets one of another, as they do where A and B are added up by themselves.

    Released code draws s from a normal distribution (``start="random"``); a method that would make
    the weights equal is there and never called. Equal ones are the default here: results then depend
    on no draw. Its learning rate of 1e-4, with a warm-up of 100 steps, hardly moves them in the
    thousand steps of one epoch on 10,000 examples; the default here is larger. As the softmax sums to 1,
    no two skills can act in full: ``normalise=False`` trains w itself, from 1/k or from a normal
    distribution. Dropout of adapters is off.

    What is kept is one adapter of all ranks side by side, with the weights multiplied in, in peft's
    format (folder ``adapter``); ``taskloom.merge`` and ``PeftModel`` take it as any other.

    Parameters
    ----------
    epochs
        Passes over the mixed batches of all tasks, one step each.
    learning_rate, warmup
        Of Adam; warm-up in steps.
    start
        Equal weights, or random ones.
    normalise
        Whether the weights of a layer are a softmax.
    """
    sources = Sources.of(on)
    scores = {
        tensor: _start(on.seed, tensor, len(pairs), start, normalise).requires_grad_()
        for tensor, pairs in sources.factors.items()
    }

    def weights(tensor: str) -> dict[str, Tensor]:
        row = torch.softmax(scores[tensor], 0) if normalise else scores[tensor]
        return dict(zip(sources.factors[tensor], row, strict=True))

    mixed = [(task, batch) for task in on.tasks for batch in batches_of(on, task, labels=True)]
    under = {task: weights_for(on.probes[task], merged) for task in on.tasks}
    edits = {task: sources.edits(on.probes[task], weights) for task in on.tasks}

    def losses(step: int) -> Any:
        epoch, place = divmod(step, len(mixed))
        order = np.random.default_rng([on.seed, epoch]).permutation(len(mixed))
        task, (inputs, labels) = mixed[order[place]]
        logits = edited_logits(on.probes[task], under[task], inputs, edits[task])
        yield task, labelled_loss(on, task, labels, logits, why="CAT")

    def build(trace: tuple[Step, ...]) -> FittedModule:
        with torch.no_grad():
            table = {tensor: weights(tensor) for tensor in scores}
            folded = sources.folded(weights)
            given = {
                name: [row[name] for row in table.values() if name in row] for name in sources.names
            }
            means = {name: float(torch.stack(rows).mean()) for name, rows in given.items() if rows}
        return FittedModule(
            "cat",
            {
                f"{t}/weights": torch.stack(list(row.values())).detach().clone()
                for t, row in table.items()
            },
            {"tasks": list(on.tasks), "adapters": {t: list(row) for t, row in table.items()}},
            trace=trace,
            said={f"mean weight {name}": f"{mean:.4f}" for name, mean in means.items()},
            beside=partial(sources.write, on, folded),
            bytes_beside=sum(4 * (a.numel() + b.numel()) for a, b in folded.values()),
        )

    how = Descent(epochs * len(mixed), learning_rate, warmup=warmup)
    return descend(scores, losses, build, how, name="cat", on=on)


def _start(seed: int, tensor: str, count: int, start: str, normalise: bool) -> Tensor:
    if start == "random":
        return torch.randn(count, generator=keyed(seed, "cat", tensor))
    return torch.zeros(count) if normalise else torch.full((count,), 1 / count)


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model: one for all tasks."""
    edits = adapter_edits(fitted.folder)
    return Plug(tuple(fitted.layout["tasks"]), edits=lambda task: edits, shared=True)


def weights_of(fitted: FittedModule) -> Mapping[str, Mapping[str, float]]:
    """Return tensor -> adapter -> learned weight."""
    return {
        tensor: dict(zip(names, fitted.tensors[f"{tensor}/weights"].tolist(), strict=True))
        for tensor, names in fitted.layout["adapters"].items()
    }
