"""SurgeryV2: correct the merged model's features after every block, so that errors do not add up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import l1_loss

from taskloom.errors import NumericalError
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Beyond, Descent, descend
from taskloom.learn.modules.kit.ending import Ending
from taskloom.learn.modules.kit.hooks import Edit, Pass, token_mean
from taskloom.learn.modules.kit.low_rank_map import down_and_up
from taskloom.learn.modules.kit.nearest import Nearest
from taskloom.learn.modules.kit.places import blocks_of
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batch_at, batches_of, keyed, teacher_of, weights_for
from taskloom.learn.modules.surgery import corrected, final_edits, final_feature
from taskloom.learn.probe import Weights
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint

#: the place after all blocks
FINAL = "final"
#: the two matrices of a map
MAP = ("down", "up")
#: inputs of a batch, and the expert's features of them: (B, d) after every block and at the end
Pair = tuple[Any, list[Tensor]]


@register(
    "module",
    paper="Yang et al., SurgeryV2: bridging the gap between model merging and multi-task learning with "
    "deep representation surgery, 2024",
    needs=("unlabeled",),
)
def surgery_v2(
    on: Problem,
    merged: Checkpoint,
    *,
    rank: Annotated[int, Field(ge=1)] = 16,
    steps: Annotated[int, Field(ge=0)] = 1000,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
    blocks: str | None = None,
) -> FittedModule:
    """Fit, per task and block, a map that makes the merged model's features more like the expert's.

    After every block the features of all tokens become ``h - W_up ReLU(W_down h)``, as does the feature
    at the end (`surgery`). What is minimised is the sum over blocks, and the end, of the mean absolute
    difference to the expert's: of the mean over tokens after a block, of the final feature at the end.
    The expert runs uncorrected, the merged model corrected. ``W_up`` starts at 0: nothing is changed at
    first. No labels.

    Released code means over all tokens, as images have no padding; here tokens that the attention mask
    leaves out do not count. It takes rank 4 for ViT-L. The expert's features are computed once.
    ``steps`` counts batches per task, in released code 500 times two.

    Paper and code fit on the test inputs themselves. On a few hundred others the maps learn them by
    heart, as those of `surgery` do: if there are validation examples, the numbers of the epoch with the
    smallest distance on their inputs are kept, task by task, those of the start among them; their labels
    are not used.

    Parameters
    ----------
    rank
        Of every map; 2 * rank * d numbers per task and block.
    steps
        Batches per task, one step of Adam each.
    learning_rate
        Of Adam.
    blocks
        Names of the blocks, a regular expression; the longest list of modules if None.
    """
    parameters: dict[str, Tensor] = {}
    pairs: dict[str, list[Pair]] = {}
    unseen: dict[str, list[Pair]] = {}
    endings: dict[str, Ending] = {}
    places: dict[str, list[str]] = {}
    under: dict[str, Weights] = {}
    for task in on.tasks:
        inputs = [given for given, _ in batches_of(on, task)]
        probe = on.probes[task]
        ending = endings[task] = Ending.of(probe, inputs[0])
        places[task] = [name for name in blocks_of(probe.module, blocks) if name != ending.place]
        expert, under[task] = weights_for(probe, teacher_of(on, task)), weights_for(probe, merged)
        pairs[task] = [(given, _features(ending, expert, given, places[task])) for given in inputs]
        if task in on.validation:
            held = [given for given, _ in on.validation[task]]
            unseen[task] = [(given, _features(ending, expert, given, places[task])) for given in held]
        for place, feature in zip((*places[task], FINAL), pairs[task][0][1], strict=True):
            generator = keyed(on.seed, "surgery", task, place)
            maps = down_and_up(feature.shape[-1], rank, generator)
            for name, matrix in zip(MAP, maps, strict=True):
                parameters[f"{task}/{place}/{name}"] = matrix.requires_grad_()

    def loss(task: str, pair: Pair) -> Tensor:
        inputs, wanted = pair
        found = _corrected_features(endings[task], under[task], inputs, places[task], parameters, task)
        both = zip(found, wanted, strict=True)
        return torch.stack([l1_loss(one, other) for one, other in both]).sum()

    def losses(step: int) -> Any:
        for task in on.tasks:
            yield task, loss(task, pairs[task][batch_at(on.seed, task, len(pairs[task]), step)])

    def distance(task: str) -> float:
        with torch.no_grad():
            found = [float(loss(task, pair)) for pair in pairs[task]]
        return sum(found) / len(found)

    def distance_unseen(task: str) -> float:
        """Mean over validation inputs; a batch counts by its examples."""
        counts = [len(wanted[-1]) for _, wanted in unseen[task]]
        with torch.no_grad():
            total = sum(n * float(loss(task, p)) for n, p in zip(counts, unseen[task], strict=True))
        return total / sum(counts)

    best = Nearest(
        parameters,
        {
            task: [f"{task}/{place}/{name}" for place in (*places[task], FINAL) for name in MAP]
            for task in unseen
        },
        {task: len(pairs[task]) for task in unseen},
        distance_unseen,
    )
    start = {task: distance(task) for task in on.tasks}

    def build(trace: tuple[Step, ...]) -> FittedModule:
        best.put_back()
        end = {task: distance(task) for task in on.tasks}
        return FittedModule(
            "surgery_v2",
            {name: tensor.detach().clone() for name, tensor in parameters.items()},
            {
                "tasks": list(on.tasks),
                "blocks": places,
                "places": {task: ending.where for task, ending in endings.items()},
            },
            trace=trace,
            said={f"distance {task}": f"{start[task]:.6g} -> {end[task]:.6g}" for task in on.tasks}
            | best.told(),
        )

    how = Descent(steps, learning_rate, together=False)
    more = Beyond(best.save, best.resume)
    return descend(
        parameters, losses, build, how, name="surgery_v2", on=on, watch=best.watch, beyond=more
    )


def block_edits(tensors: Mapping[str, Tensor], places: Mapping[str, list[str]], task: str) -> list[Edit]:
    """Return what corrects the features of all tokens after every block."""

    def at(place: str) -> Edit:
        def change(module: torch.nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
            return corrected(tensors, f"{task}/{place}", out)

        return Edit(place, change)

    return [at(place) for place in places[task]]


def _features(ending: Ending, weights: Weights, inputs: Any, places: list[str]) -> list[Tensor]:
    """Return what a model computes, uncorrected: token means after every block, and the end, (B, d)."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        final, _ = ending.run(weights, inputs, edits=[_record(place, seen) for place in places])
    found = [*(seen[place] for place in places), final.float()]
    if not all(bool(torch.isfinite(feature).all()) for feature in found):
        raise NumericalError(
            f"{ending.probe.label}: the expert computes features with NaN or infinity",
            hint="Check its weights and the inputs",
        )
    return found


def _corrected_features(
    ending: Ending,
    weights: Weights,
    inputs: Any,
    places: list[str],
    tensors: Mapping[str, Tensor],
    task: str,
) -> list[Tensor]:
    """Return the same of the corrected model; differentiable in the maps."""
    seen: dict[str, Tensor] = {}
    corrections = block_edits(tensors, {task: places}, task)
    final, _ = ending.run(
        weights,
        inputs,
        edits=[*corrections, *(_record(place, seen) for place in places)],
        change=partial(corrected, tensors, f"{task}/{FINAL}"),
    )
    return [*(seen[place] for place in places), final.float()]


def _record(place: str, seen: dict[str, Tensor]) -> Edit:
    def change(module: torch.nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
        seen[place] = token_mean(out.float(), run.mask_for(out))
        return out

    return Edit(place, change)


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model."""
    tensors, layout = fitted.tensors, fitted.layout
    ends = {
        f"{task}/{name}": tensors[f"{task}/{FINAL}/{name}"] for task in layout["tasks"] for name in MAP
    }

    def edits(task: str) -> list[Edit]:
        within = block_edits(tensors, layout["blocks"], task)
        return [*within, *final_edits(ends, layout["places"], task)]

    return Plug(
        tuple(layout["tasks"]),
        edits=edits,
        features=partial(final_feature, ends, layout["places"]),
    )
