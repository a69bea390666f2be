"""Grafting: the few weights of an expert that carry its skill, kept beside the base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from taskloom import __version__
from taskloom.errors import PlanError
from taskloom.learn.fitted import Step
from taskloom.learn.grafting import LEFT_OUT, Tensors, gates, largest, rise
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Beyond, Descent, descend
from taskloom.learn.modules.kit.exclusive import FILE, FORMAT
from taskloom.learn.modules.kit.graft_site import BestMask, Site, widened
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import only_task, teacher_of, weights_for
from taskloom.learn.modules.kit.weights import WeightEdit
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.atomic import write_json
from taskloom.store.cache import file_digest
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.graft import WEIGHTS
from taskloom.store.sparse import BITS, VALUES, packed, spread


@register(
    "module",
    paper="Panigrahi et al., Task-specific skill localization in fine-tuned language models, ICML 2023",
    needs=("labels",),
    systems=("Skill localization / model grafting",),
)
def graft(
    on: Problem,
    merged: Checkpoint,
    *,
    task: str | None = None,
    sparsity: Annotated[float, Field(gt=0, le=1)] = 1e-5,
    steps: Annotated[int, Field(ge=0)] = 100,
    learning_rate: Annotated[float, Field(gt=0)] = 1e7,
    bias: Annotated[float, Field(gt=0)] = 10.0,
    leave_out: str = LEFT_OUT,
    variant: Literal["paper", "released"] = "paper",
) -> FittedModule:
    """Learn which entries of an expert's change to put into the base so that a task is solved.

    The grafted model is ``theta_0 + g (theta - theta_0)``. The mask starts from the largest changes g_0
    and moves as ``g = g_0 + (1 - 2 g_0) sigma(S - bias)``, S uniform in [0, 1) at first, by gradient
    descent on the cross-entropy over all examples, the mean of the batches' means. After every step the
    mask is rounded, and the one is kept whose accuracy on the examples plus that on validation, if there
    is any, is highest.

    Released code (76f4aa8) starts from changes strictly above the k-th largest, one fewer than the k of
    the paper (``variant``), scores two tasks by F1, and never considers the mask it starts from.

    One task and its expert: the task's own, or the only one of the pool. What is kept is a bit per entry
    of those tensors that have any marked, and the change at the marks, without embeddings and heads.
    With the base that is the model which merging by ``graft`` makes, and which ``taskloom restore``
    writes; ``taskloom select`` and ``taskloom merge`` take the folder where they take a mask.

    Parameters
    ----------
    task
        The task; may be left out if there is one only.
    sparsity
        Share of all entries that the mask starts with: ``int(sparsity * P)``, 1 at least.
    steps
        Gradient steps, each over all examples; 0 for the largest changes alone.
    learning_rate, bias
        As above; the rate is that large because sigma'(-10) is 4.5e-5. Small changes need a larger one:
        ``said["moved"]`` has how many entries of the mask the steps changed.
    leave_out
        Tensors whose name matches are not grafted.
    variant
        How many of the largest changes the mask starts with.
    """
    if merged is not on.base and merged.digest() != on.base.digest():
        raise PlanError(
            f"graft: what it keeps is put into the base, and it cannot sit on {merged.label}",
            hint="Give no merged model",
        )
    chosen = only_task(on, task, "graft")
    expert = _expert(on, chosen)
    site = Site.of(on, chosen, expert, leave_out)
    first = largest(site.delta, sparsity, strict=variant == "released")
    generator = torch.Generator().manual_seed(on.seed)
    soft = {n: torch.rand(d.shape, generator=generator).requires_grad_() for n, d in site.delta.items()}
    best = BestMask(site, first)

    def now() -> Tensors:
        return gates(first, {n: s.detach() for n, s in soft.items()}, bias)

    def losses(step: int) -> Iterator[tuple[str, Tensor]]:
        loss, gradient = site.slope(now())
        for n, leaf in soft.items():
            leaf.grad = rise(first[n], leaf.detach(), gradient[n] * site.delta[n], bias).to(leaf.dtype)
            if not bool(torch.isfinite(leaf.grad).all()):
                loss = math.nan
        yield chosen, torch.tensor(loss, dtype=torch.float64, requires_grad=True)

    def watch(done: int) -> None:
        best.consider({n: gate.round() for n, gate in now().items()}, done)

    said = {
        "base accuracy": f"{site.right({})[0]:.4f}",
        "expert accuracy": f"{site.right(weights_for(site.probe, on.experts[expert]))[0]:.4f}",
    }
    asked = {
        "task": chosen,
        "sparsity": sparsity,
        "steps": steps,
        "learning_rate": learning_rate,
        "bias": bias,
        "leave_out": leave_out,
        "variant": variant,
    }

    def build(trace: tuple[Step, ...]) -> FittedModule:
        marks = {n: mask.bool() for n, mask in best.mask.items()}
        tensors = _entries(on, on.experts[expert], marks, site.stored)
        return FittedModule(
            "graft",
            tensors,
            _layout(site, expert, marks),
            trace=trace,
            said=said | best.told() | _told(on, expert, marks, tensors),
            beside=partial(_write_parts, on, expert, asked),
        )

    how = Descent(steps, learning_rate, rule="gradient")
    more = Beyond(best.save, best.resume)
    return descend(soft, losses, build, how, name="graft", on=on, watch=watch, beyond=more)


def _expert(on: Problem, task: str) -> str:
    """Return whose change is grafted: the task's own expert, or the only one.

    Raises
    ------
    PlanError
        Several experts, and none is the task's own.
    """
    if task not in on.own and len(on.experts) == 1:
        return on.names[0]
    teacher_of(on, task)
    return on.own[task]


def _entries(
    on: Problem, expert: Checkpoint, marks: Mapping[str, Tensor], stored: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return bits and values of every tensor that has an entry marked, by the names of the base's files.

    Values are float32, or float64 of a base of float64, so that the base with them is what
    ``taskloom.merge`` makes.
    """
    found = {}
    for n, mask in marks.items():
        if bool(mask.any()):
            base, tuned = (widened(source.read(stored[n]).detach()) for source in (on.base, expert))
            found[stored[n] + BITS] = packed(mask)
            found[stored[n] + VALUES] = (tuned.to(base.dtype) - base)[mask].clone()
    return found


def _layout(site: Site, expert: str, marks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return where the entries belong; ``shapes`` has every tensor that the mask is about."""
    inside = {stored: name for name, stored in site.probe.places.items()}
    return {
        "tasks": [site.task],
        "expert": expert,
        "names": {inside[n]: site.stored[n] for n, mask in marks.items() if bool(mask.any())},
        "shapes": {site.stored[n]: list(mask.shape) for n, mask in marks.items()},
    }


def _told(
    on: Problem, expert: str, marks: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    kept = sum(int(mask.sum()) for mask in marks.values())
    total = sum(mask.numel() for mask in marks.values())
    small = sum(t.numel() * t.element_size() for t in tensors.values())
    full = sum(info.nbytes for info in on.base.tensors.values())
    return {
        "expert": expert,
        "model": on.experts[expert].label,
        "model_digest": on.experts[expert].digest(),
        "entries": str(kept),
        "of": str(total),
        "bytes_full": str(full),
        "kept": f"{kept} of {total} entries, {small} bytes beside the base; a checkpoint has {full}",
    }


def _write_parts(on: Problem, expert: str, asked: Mapping[str, Any], folder: Path) -> None:
    """Say in ``parts.json`` that the folder is a part of a task beside its base."""
    size = (folder / WEIGHTS).stat().st_size
    whole = sum(info.nbytes for info in on.base.tensors.values())
    write_json(
        folder / FILE,
        {
            "format": FORMAT,
            "method": "graft",
            "options": dict(asked),
            "composition": "graft",
            "version": __version__,
            "base": {"label": on.base.label, "digest": on.base.digest(), "bytes": whole},
            "shared": None,
            "tasks": {asked["task"]: {"file": WEIGHTS, "bytes": size}},
            "bytes": {"shared": 0, "full": whole},
            "sources": {"experts": {expert: on.experts[expert].label}, "dtype": None},
            "inputs": [],
            "files": {WEIGHTS: {"bytes": size, "sha256": file_digest(folder / WEIGHTS)}},
        },
    )


def plug(fitted: FittedModule) -> Plug:
    """Return the graft, ready for a model with the base's weights."""
    tensors, layout = fitted.tensors, fitted.layout

    def edit(inside: str, stored: str) -> WeightEdit:
        shape = tuple(layout["shapes"][stored])
        bits, values = tensors[stored + BITS], tensors[stored + VALUES]

        def put_in(own: Tensor) -> Tensor:
            wide = torch.promote_types(own.dtype, values.dtype)
            return (own.to(wide) + spread(bits, values, shape).to(own.device, wide)).to(own.dtype)

        return WeightEdit(inside, stored, shape, put_in)

    edits = [edit(inside, stored) for inside, stored in layout["names"].items()]
    return Plug(tuple(layout["tasks"]), weights=lambda task: edits)
