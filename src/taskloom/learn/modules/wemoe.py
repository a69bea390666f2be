"""WEMoE: everything merged, but the MLPs, whose task vectors a gate mixes for every input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from taskloom.errors import PlanError
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.collapse import told_collapse
from taskloom.learn.modules.kit.descend import Descent, descend
from taskloom.learn.modules.kit.ending import edited_logits
from taskloom.learn.modules.kit.hooks import Edit, Pass, token_mean
from taskloom.learn.modules.kit.places import is_linear, matching
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batch_at, batches_of, keyed, weights_for
from taskloom.learn.objectives.entropy import entropy
from taskloom.learn.probe import Probe
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint

#: linear layers of MLPs as transformers calls them; the group is the MLP
MLP = (
    r"(.*\.)?(?:mlp|ffn|feed_forward|DenseReluDense)\.[^.]+"
    r"|(.*\.\d+)\.(?:intermediate|output)\.dense"
)


@register(
    "module",
    paper="Tang et al., Merging multi-task models via weight-ensembling mixture of experts, ICML 2024",
    needs=("unlabeled",),
    partly={
        "WEMoE": "the gates and their fit are there, and docs/learned.md holds them against static "
        "merges, of one seed; the robustness runs are not"
    },
)
def wemoe(
    on: Problem,
    merged: Checkpoint,
    *,
    start: float = 0.3,
    steps: Annotated[int, Field(ge=0)] = 1000,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
    schedule: Literal["constant", "cosine"] = "cosine",
    layers: Literal[0, 1, 2] = 2,
    spread: Annotated[float, Field(ge=0)] = 0.01,
    average: bool = False,
    mlp: str = MLP,
) -> FittedModule:
    """Fit, per MLP, a gate that says how much of each expert's change an input gets.

    With h what goes into the MLP, ``w = mean over tokens of fc2(ReLU(fc1 h))``, a number per expert, not
    normalised. The MLP's weights for this input are ``W_0 + sum_k w_k tau_k``; a linear layer computes
    this as ``y + sum_k (w_k - start) (tau_k x)`` here, where y is the merged model's output: exact if
    that is task arithmetic with the scale ``start``, and a start from the merge as it is if it is any
    other. fc1 and fc2 start small and fc2's bias at ``start``, so that the merge is hardly changed at
    first, and not at all with ``spread=0``. What is minimised is the entropy of the predictions, summed
    over tasks. No labels.

    Released code (c401fdc) fits on test inputs; which inputs are seen here, the problem says. Its gates
    are averaged over tokens (``src/module/dict_moe.py``, line 149) and hold for one example each (the
    loop in line 152), in training (``scripts/clip_dictmoe.py``, line 91) as in use: the default here.
    FusionBench (54c9e8c), at a constant learning rate, averages them over the batch as well
    (``fusion_bench/models/we_moe.py``, line 172), in training only: ``batch_reduce`` is true in its
    ``weight_ensembling_moe.yaml``, and set to false after the fit, in line 244 of
    ``fusion_bench/method/we_moe/we_moe.py``. That is ``average=True``. Tokens that the attention mask
    leaves out do not count here. The task vectors of the MLPs are kept with the module: about two
    thirds of a transformer's blocks, for every expert.

    Parameters
    ----------
    start
        What every gate gives at first; the scale of the merge below.
    steps, learning_rate, schedule
        Of Adam; a batch of every task a step.
    layers
        Of a gate; 0 for one weight per expert and MLP whatever the input.
    spread
        Standard deviation of fc1 and fc2 at first.
    average
        In training, one gate for all of a batch.
    mlp
        Names of the linear layers that belong to MLPs, a regular expression; its first group that
        takes part names the MLP, and layers of one name share a gate.
    """
    groups = {task: mlps_of(on.probes[task], mlp) for task in on.tasks}
    first = groups[on.tasks[0]]
    if any(found != first for found in groups.values()):
        raise PlanError(
            "wemoe: the tasks run models with different MLPs", hint="Give one model with several heads"
        )
    changes = _changes(on, on.probes[on.tasks[0]], first)
    parameters: dict[str, Tensor] = {}
    for group, places in first.items():
        width = _width(on.probes[on.tasks[0]].module.get_submodule(places[0]))
        generator = keyed(on.seed, "wemoe", group)
        gate = _gate(width, len(on.experts), layers, start, spread, generator)
        parameters |= {f"gate/{group}/{key}": tensor.requires_grad_() for key, tensor in gate.items()}
    layout = {
        "tasks": list(on.tasks),
        "experts": list(on.experts),
        "start": start,
        "groups": {group: list(places) for group, places in first.items()},
    }
    tensors = {**changes, **parameters}
    under = {task: weights_for(on.probes[task], merged) for task in on.tasks}
    batches = {task: batches_of(on, task) for task in on.tasks}

    def logits(task: str, inputs: Any, *, average: bool) -> Tensor:
        edits = gate_edits(tensors, layout, average=average)
        return edited_logits(on.probes[task], under[task], inputs, edits)

    def losses(step: int) -> Any:
        for task in on.tasks:
            inputs, _ = batches[task][batch_at(on.seed, task, len(batches[task]), step)]
            yield task, entropy(logits(task, inputs, average=average).float())

    def build(trace: tuple[Step, ...]) -> FittedModule:
        def predicted(task: str) -> Iterator[Tensor]:
            return (logits(task, inputs, average=False).detach() for inputs, _ in batches[task])

        return FittedModule(
            "wemoe",
            {name: tensor.detach().clone() for name, tensor in tensors.items()},
            layout,
            trace=trace,
            said={"objective": "entropy", **told_collapse(on.tasks, predicted)},
        )

    how = Descent(steps, learning_rate, schedule)
    return descend(parameters, losses, build, how, name="wemoe", on=on)


def mlps_of(probe: Probe, pattern: str) -> dict[str, tuple[str, ...]]:
    """Return MLP -> its linear layers in order.

    Raises
    ------
    PlanError
        None has such a name, or what has is no linear layer.
    """
    found: dict[str, list[str]] = {}
    for place in matching(probe.module, pattern, "mlp"):
        if not is_linear(probe.module.get_submodule(place)):
            continue
        match = re.fullmatch(pattern, place)
        assert match is not None
        group = next((each for each in match.groups() if each is not None), "")
        found.setdefault(group.rstrip("."), []).append(place)
    if not found:
        raise PlanError(
            f"wemoe: nothing that the option 'mlp' ({pattern!r}) names is a linear layer",
            hint="Name the linear layers of the MLPs",
        )
    return {group: tuple(places) for group, places in found.items()}


def gate_weights(tensors: Mapping[str, Tensor], group: str, hidden: Tensor, run: Pass) -> Tensor:
    """Return how much of every expert's change each input gets, ``(B, K)`` or ``(1, K)``.

    Parameters
    ----------
    hidden
        What goes into the MLP, ``(B, T, D)`` or ``(B, D)``.
    """
    known = {key: tensors.get(f"gate/{group}/{key}") for key in ("w1", "b1", "w2", "b2")}
    if known["w2"] is None:
        assert known["b2"] is not None
        return known["b2"][None]
    inner = hidden.float()
    if known["w1"] is not None:
        inner = relu(linear(inner, known["w1"], known["b1"]))
    return token_mean(linear(inner, known["w2"], known["b2"]), run.mask_for(hidden))


def gate_edits(
    tensors: Mapping[str, Tensor], layout: Mapping[str, Any], *, average: bool = False
) -> list[Edit]:
    """Return what turns the MLPs of a merged model into mixtures.

    The gate of an MLP is asked when the first of its layers runs, and holds for the others.
    """
    experts, start = layout["experts"], float(layout["start"])

    def at(group: str, place: str, module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
        weights, done = run.memo.get(group, (None, frozenset()))
        if weights is None or place in done:
            weights, done = gate_weights(tensors, group, given, run), frozenset()
            weights = weights.mean(0, keepdim=True) if average else weights
        run.memo[group] = (weights, done | {place})
        found = out
        for k, expert in enumerate(experts):
            change = tensors[f"change/{expert}/{place}/weight"].to(given.dtype)
            bias = tensors.get(f"change/{expert}/{place}/bias")
            turned = change if isinstance(module, nn.Linear) else change.T
            passed = linear(given, turned, None if bias is None else bias.to(given.dtype))
            share = (weights[:, k] - start).to(out.dtype)
            found = found + share.reshape(-1, *[1] * (out.ndim - 1)) * passed
        return found

    return [
        Edit(place, partial(at, group, place))
        for group, places in layout["groups"].items()
        for place in places
    ]


def _changes(on: Problem, probe: Probe, groups: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Return the task vectors of the MLPs, in the base's dtype."""
    found: dict[str, Tensor] = {}
    for name, expert in on.experts.items():
        for places in groups.values():
            for place in places:
                for leaf in ("weight", "bias"):
                    stored = probe.places.get(f"{place}.{leaf}")
                    if stored is None or stored not in on.base.tensors:
                        continue
                    base = on.base.read(stored)
                    change = expert.read(stored).float() - base.float()
                    found[f"change/{name}/{place}/{leaf}"] = change.detach().to(base.dtype)
    return found


def _width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0])


def _gate(
    width: int, count: int, layers: int, start: float, spread: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the tensors of a gate as it starts."""
    found = {"b2": torch.full((count,), start)}
    if layers >= 1:
        found["w2"] = spread * torch.randn(count, width, generator=generator)
    if layers == 2:
        found["w1"] = spread * torch.randn(width, width, generator=generator)
        found["b1"] = torch.zeros(width)
    return found


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model: one for all tasks."""
    edits = gate_edits(fitted.tensors, fitted.layout)
    return Plug(tuple(fitted.layout["tasks"]), edits=lambda task: edits, shared=True)
