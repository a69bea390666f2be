"""Model Tinting: merging coefficients and one layer per task, trained together on what experts say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from taskloom.errors import PlanError
from taskloom.learn.coefficients.blend import Blend
from taskloom.learn.coefficients.descend import processors
from taskloom.learn.coefficients.layout import Layout
from taskloom.learn.coefficients.vectors import TaskVectors
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.collapse import told_collapse
from taskloom.learn.modules.kit.descend import Descent, descend
from taskloom.learn.modules.kit.ending import Ending, Top
from taskloom.learn.modules.kit.hooks import Edit, Pass
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batch_at, batches_of, teacher_of, weights_for
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint

#: what an expert says of a batch: labels ``(B,)`` and how sure it is of them ``(B,)``
Told = tuple[Tensor, Tensor]


@register(
    "module",
    paper="Jung et al., Why train everything? Tint a single layer for multi-task model merging, 2024",
    needs=("unlabeled",),
    partly={
        "Model Tinting": "coefficients and heads are trained together, on all inputs or chosen by "
        "confidence; docs/learned.md compares the former with AdaMerging and Surgery, of one seed; the "
        "latter is not measured"
    },
)
def tinting(
    on: Problem,
    merged: Checkpoint,
    *,
    epochs: Annotated[int, Field(ge=0)] = 500,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2,
    start: Annotated[float, Field(ge=0, le=1)] = 0.3,
    confident: bool = False,
    clamp: bool = True,
) -> FittedModule:
    """Train a coefficient per expert and tensor together with a head per task.

    The model is ``theta_0 + sum_k lambda_k^l tau_k^l``, the coefficients clamped to [0, 1] in the
    forward pass and ``start`` at first; each task's head starts as a copy of its own, and is that layer
    which the paper tints. What is minimised is the cross-entropy with the class that the task's own
    expert predicts. ``confident`` (the paper's ++) leaves out inputs of which the two disagree and the
    merged model is the surer. No labels. An epoch has a batch of every task, in shuffled order, and a
    step of Adam after each.

    Released code makes NaN of a batch from which nothing is kept; here it is passed over. Coefficients
    go by the tensors of the base, and task vectors are streamed as in ``taskloom fit``. The merge is the
    module's own: give the base, or nothing, as what it sits on, and merge with the recipe that it
    keeps (``fitted.layout["recipe"]``).

    Parameters
    ----------
    epochs
        A batch of every task each.
    learning_rate
        Of Adam, for coefficients and heads alike.
    start
        Of every coefficient.
    confident
        Choose inputs by confidence.
    clamp
        Clamp coefficients to [0, 1].
    """
    if merged is not on.base and merged.digest() != on.base.digest():
        raise PlanError(
            f"tinting: it learns a merge of its own, and cannot sit on {merged.label}",
            hint="Give no merged model",
        )
    layout = Layout.of(on.names, on.base.tensors, "tensor")
    endings: dict[str, Ending] = {}
    told: dict[str, list[Told]] = {}
    tops: dict[str, Top] = {}
    batches = {task: batches_of(on, task) for task in on.tasks}
    for task in on.tasks:
        endings[task] = Ending.of(on.probes[task], batches[task][0][0])
        expert = weights_for(on.probes[task], teacher_of(on, task))
        told[task] = [_ask(endings[task], expert, inputs) for inputs, _ in batches[task]]
        weight, bias = endings[task].top(expert)
        tops[task] = (_leaf(weight), None if bias is None else _leaf(bias))
    raw = layout.full(start).requires_grad_()
    parameters: dict[str, Tensor] = {"coefficients": raw}
    for task, (weight, bias) in tops.items():
        parameters[f"head/{task}/weight"] = weight
        if bias is not None:
            parameters[f"head/{task}/bias"] = bias

    def table() -> Tensor:
        return raw.clamp(0, 1) if clamp else raw

    def run(task: str, inputs: Any) -> Tensor:
        """Return logits of the merge as it is built, under the task's head."""
        return endings[task].run(blend.weights(task), inputs, top=tops[task])[1]

    def predicted(task: str) -> list[Tensor]:
        with torch.no_grad():
            return [run(task, inputs) for inputs, _ in batches[task]]

    def losses(step: int) -> Iterator[tuple[str, Tensor]]:
        for number in np.random.default_rng([on.seed, step]).permutation(len(on.tasks)):
            task = on.tasks[number]
            place = batch_at(on.seed, task, len(batches[task]), step)
            now = table()
            blend.build(now.detach())
            logits = run(task, batches[task][place][0])
            loss = _loss(logits.float(), told[task][place], confident)
            if loss is None:
                continue
            if math.isfinite(float(loss.detach())):
                loss.backward()  # type: ignore[no-untyped-call]
                # the gradient by the coefficients, as a loss of the same value
                product = (now * blend.gradient()).sum()
                loss = product - product.detach() + loss.detach()
            yield task, loss

    def build(trace: tuple[Step, ...]) -> FittedModule:
        found = table().detach().clone()
        heads = {key: t.detach().clone() for key, t in parameters.items() if key.startswith("head/")}
        rows = zip(on.names, found, strict=True)
        blend.build(found)
        return FittedModule(
            "tinting",
            {"coefficients": found, **heads},
            {
                "tasks": list(on.tasks),
                "experts": list(on.names),
                "groups": list(layout.groups),
                "places": {task: ending.where for task, ending in endings.items()},
                "recipe": {"method": "coefficients", "options": layout.options(found)},
            },
            trace=trace,
            said={f"mean coefficient {name}": f"{float(row.mean()):.4f}" for name, row in rows}
            | told_collapse(on.tasks, predicted),
        )

    vectors = TaskVectors(on.base, on.experts, layout, threads=processors())
    how = Descent(epochs, learning_rate, together=False)
    with vectors, Blend(on, vectors) as blend:
        return descend(parameters, losses, build, how, name="tinting", on=on)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().float().requires_grad_()


def _ask(ending: Ending, weights: dict[str, Tensor], inputs: Any) -> Told:
    with torch.no_grad():
        sure, labels = ending.run(weights, inputs)[1].float().softmax(-1).max(-1)
    return labels, sure


def _loss(logits: Tensor, told: Told, confident: bool) -> Tensor | None:
    """Return the cross-entropy with the expert's labels, None if no input is kept."""
    labels, sure = told
    if confident:
        own_sure, own = logits.detach().softmax(-1).max(-1)
        kept = (own == labels) | (sure >= own_sure) | ~torch.isfinite(own_sure)
        if not bool(kept.any()):
            return None
        logits, labels = logits[kept], labels[kept]
    return cross_entropy(logits, labels)


def plug(fitted: FittedModule) -> Plug:
    """Return the heads, ready for a model with the merged weights."""
    places, tensors = fitted.layout["places"], fitted.tensors

    def top(task: str) -> Top:
        return tensors[f"head/{task}/weight"], tensors.get(f"head/{task}/bias")

    def edits(task: str) -> list[Edit]:
        def head(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
            return linear(given, *top(task))

        return [] if places[task] == "pooled" else [Edit(places[task], head)]

    return Plug(tuple(fitted.layout["tasks"]), edits=edits, top=top)
