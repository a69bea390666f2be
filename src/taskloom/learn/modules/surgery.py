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
        "Surgery (Representation Surgery)": "it raises every merge of a small made-up pool; no "
        "measurement on real experts yet"
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
    best = _Best(parameters, unseen, {task: len(pairs[task]) for task in on.tasks})

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


class _Best:
    """The maps that come nearest to the experts on inputs that are not fitted on, task by task."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        unseen: Mapping[str, list[tuple[Tensor, Tensor]]],
        epochs: Mapping[str, int],
    ) -> None:
        self._parameters, self._unseen, self._epochs = parameters, unseen, epochs
        self._kept: dict[str, Tensor] = {}
        self._found: dict[str, tuple[int, float]] = {}
        for task in unseen:
            self._consider(task, 0)

    def watch(self, done: int) -> None:
        """Look at the tasks of which an epoch has ended."""
        for task in self._unseen:
            if done % self._epochs[task] == 0:
                self._consider(task, done)

    def _consider(self, task: str, done: int) -> None:
        found = _distance(self._unseen[task], self._parameters, task)
        if task not in self._found or found < self._found[task][1]:
            self._found[task] = done, found
            for name in ("down", "up"):
                key = f"{task}/{name}"
                self._kept[key] = self._parameters[key].detach().clone()

    def put_back(self) -> None:
        """Make the best maps the ones that there are."""
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


def feature_pairs(
    on: Problem, merged: Checkpoint, task: str, *, held: bool = False
) -> tuple[list[tuple[Tensor, Tensor]], Ending]:
    """Return the final features of the merged model and of the task's own expert, batch by batch.

    Of the inputs that are fitted on; of validation's with ``held``.

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
    """Mean absolute difference to the expert's features over all examples."""
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
    """Return corrected pooled features; as they are where the correction is inside the model."""
    return corrected(tensors, task, z) if places[task] == "pooled" else z


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model."""
    tensors, places = fitted.tensors, fitted.layout["places"]
    return Plug(
        tuple(fitted.layout["tasks"]),
        edits=partial(final_edits, tensors, places),
        features=partial(final_feature, tensors, places),
    )
