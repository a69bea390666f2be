"""Twin-Merging's router: what is exclusive to each task, mixed for every input."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.learn.fitted import Step
from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Beyond, Descent, descend
from taskloom.learn.modules.kit.ending import edited_logits
from taskloom.learn.modules.kit.exclusive import Exclusives, read_parts_table
from taskloom.learn.modules.kit.hooks import Edit, Pass, attached, token_mean
from taskloom.learn.modules.kit.places import blocks_of, find_place, find_tensor
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.sources import batches_of, keyed, teacher_of, weights_for
from taskloom.learn.probe import Batch, Probe, Weights
from taskloom.learn.problem import Problem
from taskloom.registry import register
from taskloom.store.checkpoint import Checkpoint

#: where an artefact keeps the shared model and the exclusive parts
PARTS = "parts"


@register(
    "module",
    paper="Lu et al., Twin-Merging: dynamic integration of modular expertise in model merging, NeurIPS "
    "2024 (router)",
    needs=("unlabeled", "parts"),
    partly={
        "Twin-Merging": "its score as a share of the experts' and what it stores are reported in "
        "docs/learned.md, of one seed only"
    },
)
def twin_router(
    on: Problem,
    merged: Checkpoint,
    *,
    epochs: Annotated[int, Field(ge=0)] = 50,
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4,
    batch_size: Annotated[int, Field(ge=2)] = 1024,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    at: str | None = None,
) -> FittedModule:
    """Fit a router that tells from an input's features how much of each task's own part to add.

    The shared model theta* runs first; its last hidden states, averaged over tokens, go through an MLP
    (d to 2d to 2d to T, with batch normalisation, leaky ReLU and dropout). With ``w = softmax`` of what
    comes out, the input then runs through ``theta* + sum_t w_t v_t``, under the head of its task. The
    router learns from inputs and which task each is of, by cross-entropy; no labels of classes.

    ``merged`` is the folder that ``taskloom.merge_parts(..., "twin_merging", ...)`` wrote: the shared
    model with the exclusive parts v_t beside it. Released code keeps the epoch that is best on the test
    inputs; here it is the one best on validation inputs if there are any, else the last. It runs one
    input at a time; so does this, but for the first pass. Tokens that the attention mask leaves out do
    not count. Batches of the router are as large as ``batch_size`` or a little larger, so that none has
    one example only, which batch normalisation cannot learn from.

    Parameters
    ----------
    epochs
        Passes over all inputs.
    learning_rate
        Of Adam; falls to 0.
    batch_size
        Inputs per step.
    dropout
        Of the router's two hidden layers.
    at
        Name of the module whose output is averaged; the last of the longest list of modules if None.
    """
    folder = getattr(merged, "path", None)
    if folder is None:
        raise CheckpointError(
            f"twin_router: expected the folder of a shared model and its parts, found {merged.label}",
            hint="Give what taskloom.merge_parts(base, experts, 'twin_merging', folder) wrote",
        )
    table = read_parts_table(Path(folder))
    experts = [_part(on, task, table) for task in on.tasks]
    places = {task: blocks_of(on.probes[task].module, at)[-1] for task in on.tasks}
    features, ids = _labelled(on, merged, places, {task: batches_of(on, task) for task in on.tasks})
    held = {task: list(examples) for task, examples in on.validation.items() if task in on.tasks}
    unseen = _labelled(on, merged, places, held) if held else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(on.seed, "twin_router").initial_seed())
        router = make_router(features.shape[1], len(on.tasks), dropout)
        groups = max(1, len(ids) // batch_size)
        best: dict[str, Any] = {"score": -1.0}

        def losses(step: int) -> Any:
            epoch, place = divmod(step, groups)
            order = np.random.default_rng([on.seed, epoch]).permutation(len(ids))
            rows = torch.from_numpy(np.array_split(order, groups)[place])
            router.train()
            yield "all", cross_entropy(router(features[rows]), ids[rows])

        def watch(done: int) -> None:
            if done % groups == 0 and unseen is not None:
                score = _right(router, *unseen)
                if score > best["score"]:
                    best.update(score=score, epoch=done // groups)
                    best["kept"] = {name: t.clone() for name, t in router.state_dict().items()}

        def save() -> tuple[dict[str, Tensor], dict[str, Any]]:
            tensors = {f"running/{name}": tensor for name, tensor in router.named_buffers()}
            tensors |= {f"kept/{name}": tensor for name, tensor in best.get("kept", {}).items()}
            told = {"score": best["score"], "epoch": best.get("epoch", 0)}
            return {**tensors, "generator": torch.get_rng_state()}, told

        def resume(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
            with torch.no_grad():
                for name, tensor in router.named_buffers():
                    tensor.copy_(tensors[f"running/{name}"])
            best.update(told)
            kept = {n.removeprefix("kept/"): t for n, t in tensors.items() if n.startswith("kept/")}
            if kept:
                best["kept"] = kept
            torch.set_rng_state(tensors["generator"])

        def build(trace: tuple[Step, ...]) -> FittedModule:
            if "kept" in best:
                router.load_state_dict(best["kept"])
            said = {"labels": "tasks only", "routed rightly": f"{_right(router, features, ids):.4f}"}
            if "kept" in best:
                said |= {"epoch kept": str(best["epoch"]), "validation": f"{best['score']:.4f}"}
            probe, task = on.probes[on.tasks[0]], on.tasks[0]
            return FittedModule(
                "twin_router",
                {name: t.detach().clone() for name, t in router.state_dict().items()},
                {
                    "tasks": list(on.tasks),
                    "experts": experts,
                    "at": places[task],
                    "names": dict(probe.places),
                    "source": str(Path(folder).resolve()),
                },
                trace=trace,
                said=said,
                beside=partial(_copy, Path(folder)),
                bytes_beside=sum(f.stat().st_size for f in Path(folder).rglob("*.safetensors")),
            )

        how = Descent(epochs * groups, learning_rate, "linear")
        return descend(
            dict(router.named_parameters()),
            losses,
            build,
            how,
            name="twin_router",
            on=on,
            watch=watch,
            beyond=Beyond(save, resume),
        )


def make_router(width: int, tasks: int, dropout: float = 0.0) -> nn.Sequential:
    """Return an untrained router ``(B, width) -> (B, tasks)``."""
    hidden = 2 * width
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, tasks),
    )


def _part(on: Problem, task: str, table: Mapping[str, Any]) -> str:
    """Return under which name the parts of a task's own expert are kept."""
    teacher_of(on, task)
    name = on.own[task]
    if name not in table["tasks"]:
        raise PlanError(
            f"task {task!r}: the parts hold nothing of its expert {name!r}; they are of "
            f"{', '.join(table['tasks'])}",
            hint="Make the parts of the same experts",
        )
    return name


def _labelled(
    on: Problem, merged: Checkpoint, places: Mapping[str, str], batches: Mapping[str, Sequence[Batch]]
) -> tuple[Tensor, Tensor]:
    """Return features ``(N, D)`` of the shared model and the number of every input's task ``(N,)``."""
    rows, ids = [], []
    for task, given in batches.items():
        weights = weights_for(on.probes[task], merged)
        for inputs, _ in given:
            found = _features(on, task, weights, inputs, places[task])
            if not bool(torch.isfinite(found).all()):
                raise NumericalError(
                    f"task {task!r}: {merged.label} computes features with NaN or infinity",
                    hint="Check its weights and the task's inputs",
                )
            rows.append(found)
            ids.append(torch.full((len(found),), on.tasks.index(task)))
    return torch.cat(rows), torch.cat(ids)


def _features(on: Problem, task: str, weights: Weights, inputs: Any, place: str) -> Tensor:
    seen: list[Tensor] = []
    with torch.no_grad():
        edited_logits(on.probes[task], weights, inputs, [_record(place, seen)])
    return seen[0]


def _record(place: str, seen: list[Tensor]) -> Edit:
    def change(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
        seen.append(token_mean(out.float(), run.mask_for(out)))
        return out

    return Edit(place, change)


def _right(router: nn.Module, features: Tensor, ids: Tensor) -> float:
    router.eval()
    with torch.no_grad():
        return float((router(features).argmax(1) == ids).float().mean())


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder / PARTS)


class Routed:
    """Runs a model twice: the shared one to find the weights, then one of its own for every input.

    Parameters
    ----------
    fitted
        The router.
    """

    def __init__(self, fitted: FittedModule) -> None:
        layout = fitted.layout
        width = fitted.tensors["0.weight"].shape[1]
        self._router = make_router(width, len(layout["tasks"])).eval()
        self._router.load_state_dict(dict(fitted.tensors))
        self._at, self._names = layout["at"], layout["names"]
        folder = Path(layout["source"]) if fitted.folder is None else fitted.folder / PARTS
        self._parts = Exclusives(folder, tuple(layout["experts"]))

    def weights(self, model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
        """Return how much of each task's part every input gets, ``(B, T)``; rows sum to 1."""
        seen: list[Tensor] = []
        with torch.no_grad(), attached(model, [_record(find_place(model, self._at), seen)]):
            model(*args, **named)
            return torch.softmax(self._router(seen[0]), 1)

    def mixed(self, model: nn.Module, weights: Tensor) -> dict[str, Tensor]:
        """Return the model's weights with as much of each part added, by the model's names."""
        state = model.state_dict()
        found = {}
        for inside, stored in self._names.items():
            name = find_tensor(model, state, inside)
            if state[name].is_floating_point():
                found[name] = self._parts.added(stored, state[name].cpu(), weights)
        return found

    def rows(
        self, probe: Probe, weights: Weights, inputs: Any
    ) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        """Yield the inputs one by one, with the weights of each by stored name."""
        seen: list[Tensor] = []
        place = find_place(probe.module, self._at)
        with torch.no_grad():
            edited_logits(probe, weights, inputs, [_record(place, seen)])
            shares = torch.softmax(self._router(seen[0]), 1)
        for number, row in enumerate(shares):
            one = (
                {name: _taken(value, number, len(shares)) for name, value in inputs.items()}
                if isinstance(inputs, Mapping)
                else _taken(inputs, number, len(shares))
            )
            yield (
                one,
                {
                    name: self._parts.added(name, tensor, row) if tensor.is_floating_point() else tensor
                    for name, tensor in weights.items()
                },
            )

    def __call__(self, model: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run every input through weights of its own; outputs are joined."""
        rows = self.weights(model, args, named)
        found = []
        for number, row in enumerate(rows):
            one = tuple(_taken(value, number, len(rows)) for value in args)
            more = {name: _taken(value, number, len(rows)) for name, value in named.items()}
            found.append(functional_call(model, self.mixed(model, row), one, more))
        return _joined(found)


def _taken(value: Any, number: int, count: int) -> Any:
    whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
    return value[number : number + 1] if whole else value


def _joined(found: list[Any]) -> Any:
    first = found[0]
    if isinstance(first, Tensor):
        return torch.cat(found) if first.ndim else torch.stack(found).mean()
    if isinstance(first, Mapping):
        kind: Any = type(first)
        return kind(**{name: _joined([each[name] for each in found]) for name in first})
    if isinstance(first, tuple):
        return tuple(_joined(list(items)) for items in zip(*found, strict=True))
    return first


def plug(fitted: FittedModule) -> Plug:
    """Return the module, ready for a model: one for all tasks, which runs the model itself."""
    return Plug(tuple(fitted.layout["tasks"]), call=Routed(fitted), shared=True)
