"""Representation Surgery: subtract from the merged model's feature what biases it, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import l1_loss

from taskloom.errors import NumericalError, PlanError
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Beyond, Descent, descend
from taskloom.learn.modules.kit.ending import Ending
from taskloom.learn.modules.kit.hooks import Edit, Pass
from taskloom.learn.modules.kit.low_rank_map import down_and_up, subtract
from taskloom.learn.modules.kit.nearest import Nearest
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batch_at, batches_of, keyed, teacher_of, weights_for
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint


@register(
    "module",
    paper="Yang et al., Representation Surgery for multi-task model merging, ICML 2024",
    needs=("unlabeled",),
    partly={
        "Surgery (Representation Surgery)": "it raises every merge of a small made-up pool; on real "
        "experts docs/learned.md has it on the average alone, of one seed"
    },
)
def surgery(
    on: Problem,
    merged: Checkpoint,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    steps: Annotated[int, Field(ge=0)] = 1000,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
) -> FittedModule:
    """Fit, per task, a map that makes the merged model's last feature more like the expert's.

    ``z' = z - W_up ReLU(W_down z)`` with ``W_down`` (rank, d) and ``W_up`` (d, rank), no biases.
    ``W_up`` starts at 0, so that nothing is changed at first. What is minimised is the mean absolute
    difference of z' and the feature that the task's own expert computes of the same input. No labels.

    Released code (5df3f4e) runs both models anew at every step, 500 times two batches; as the model is
    frozen, features are computed once here, and ``steps`` counts batches per task: the same arithmetic,
    but for the batches, which are gone through in a new order every epoch instead of drawn anew every 2.
    The paper's features are CLIP's projected ones before they are normalised; here they are what the
    head reads. At run time the task must be known.

    Paper and code fit on the test inputs themselves, thousands of a task, so that what is fitted is what
    is scored. On a few hundred other inputs 1000 steps are dozens of epochs, and the map learns them by
    heart: on inputs that it has not seen the distance falls, then rises again. If there are validation
    examples, the numbers of the epoch with the smallest distance on their inputs are therefore kept,
    task by task, those of the start among them; their labels are not used.

    Parameters
    ----------
    rank
        Of the map; 2 * rank * d numbers per task.
    steps
        Batches per task, one step of Adam each.
    learning_rate
        Of Adam.
    """
    parameters: dict[str, Tensor] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    places: dict[str, str] = {}
    for task in on.tasks:
        pairs[task], ending = feature_pairs(on, merged, task)
        places[task], width = ending.where, pairs[task][0][0].shape[-1]
        generator = keyed(on.seed, "surgery", task)
        for name, matrix in zip(("down", "up"), down_and_up(width, rank, generator), strict=True):
            parameters[f"{task}/{name}"] = matrix.requires_grad_()
    start = {task: _distance(pairs[task], parameters, task) for task in on.tasks}
    unseen = {
        task: feature_pairs(on, merged, task, held=True)[0] for task in on.tasks if task in on.validation
    }
    best = Nearest(
        parameters,
        {task: [f"{task}/{name}" for name in ("down", "up")] for task in unseen},
        {task: len(pairs[task]) for task in unseen},
        lambda task: _distance(unseen[task], parameters, task),
    )

    def losses(step: int) -> Any:
        for task in on.tasks:
            z, wanted = pairs[task][batch_at(on.seed, task, len(pairs[task]), step)]
            yield task, l1_loss(corrected(parameters, task, z), wanted)

    def build(trace: tuple[Step, ...]) -> FittedModule:
        best.put_back()
        end = {task: _distance(pairs[task], parameters, task) for task in on.tasks}
        return FittedModule(
            "surgery",
            {name: tensor.detach().clone() for name, tensor in parameters.items()},
            {"tasks": list(on.tasks), "places": places},
            trace=trace,
            said={f"distance {task}": f"{start[task]:.6g} -> {end[task]:.6g}" for task in on.tasks}
            | best.told(),
        )

    how = Descent(steps, learning_rate, together=False)
    more = Beyond(best.save, best.resume)
    return descend(parameters, losses, build, how, name="surgery", on=on, watch=best.watch, beyond=more)


def feature_pairs(
    on: Problem, merged: Checkpoint, task: str, *, held: bool = False
) -> tuple[list[tuple[Tensor, Tensor]], Ending]:
    """Return the final features of the merged model and of the task's own expert, batch by batch.

    Of the inputs that are fitted on; of validation's with ``held``.

    Returns
    -------
    Pairs (merged, expert) of ``(B, d)`` each, float32, and where they were taken.

    Raises
    ------
    PlanError
        The task has no expert of its own.
    CheckpointError
        The merged model is of another kind than the base.
    NumericalError
        Features that are not finite.
    """
    probe = on.probes[task]
    batches = list(on.validation[task]) if held else batches_of(on, task)
    ending = Ending.of(probe, batches[0][0])
    found: list[list[Tensor]] = []
    for source in (merged, teacher_of(on, task)):
        weights = weights_for(probe, source)
        with torch.no_grad():
            found.append([ending.run(weights, inputs)[0].float() for inputs, _ in batches])
        if not all(bool(torch.isfinite(z).all()) for z in found[-1]):
            raise NumericalError(
                f"task {task!r}: {source.label} computes features with NaN or infinity",
                hint="Check its weights and the task's inputs",
            )
    return list(zip(*found, strict=True)), ending


def corrected(tensors: Mapping[str, Tensor], key: str, z: Tensor) -> Tensor:
    """Return a feature less what the map of a key makes of it.

    Parameters
    ----------
    tensors
        ``KEY/down`` ``(r, d)`` and ``KEY/up`` ``(d, r)``.
    z
        ``(..., d)``: ``(B, d)`` of a final feature, ``(B, T, d)`` of tokens.

    Returns
    -------
    Of the shape and dtype of ``z``.

    Raises
    ------
    PlanError
        The feature has another width than the map.
    """
    width = tensors[f"{key}/down"].shape[1]
    if z.shape[-1] != width:
        raise PlanError(
            f"the module was fitted on features of width {width}, and this model's have {z.shape[-1]}",
            hint="Give the model that it was fitted on top of",
        )
    return subtract(z, tensors[f"{key}/down"].to(z.dtype), tensors[f"{key}/up"].to(z.dtype))


def _distance(pairs: list[tuple[Tensor, Tensor]], parameters: Mapping[str, Tensor], task: str) -> float:
    """Mean absolute difference to the expert's features over all examples; pairs of ``(B, d)``."""
    with torch.no_grad():
        total = sum(float((corrected(parameters, task, z) - w).abs().sum()) for z, w in pairs)
    return total / sum(w.numel() for _, w in pairs)


def final_edits(tensors: Mapping[str, Tensor], places: Mapping[str, str], task: str) -> list[Edit]:
    """Return what corrects the final feature where it lies inside the model."""

    def change(module: torch.nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
        return corrected(tensors, task, given)

    place = places[task]
    return [] if place == "pooled" else [Edit(place, change, before=True)]


def final_feature(
    tensors: Mapping[str, Tensor], places: Mapping[str, str], z: Tensor, task: str
) -> Tensor:
    """Return corrected pooled features ``(B, d)``; as they are where the correction is in the model.

    Parameters
    ----------
    tensors
        ``TASK/down`` ``(r, d)`` and ``TASK/up`` ``(d, r)``.
    places
        Task -> where its final feature is, ``pooled`` or a module that reads it.
    z
        ``(B, d)``.

    Raises
    ------
    PlanError
        The features have another width than the map.
    """
    return corrected(tensors, task, z) if places[task] == "pooled" else z


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model."""
    tensors, places = fitted.tensors, fitted.layout["places"]
    return Plug(
        tuple(fitted.layout["tasks"]),
        edits=partial(final_edits, tensors, places),
        features=partial(final_feature, tensors, places),
    )
