"""LoRA adapters side by side: what each adds to a layer's output, and all of them as one adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskloom.errors import CheckpointError, PlanError
from taskloom.learn.modules.kit.hooks import Edit, Pass
from taskloom.learn.modules.kit.places import is_linear
from taskloom.learn.probe import Probe
from taskloom.learn.problem import Problem
from taskloom.store.adapter import CONFIG, WEIGHTS, AdapterCheckpoint
from taskloom.store.adapter_keys import sort_keys
from taskloom.store.adapter_layout import Layout
from taskloom.store.adapter_writer import write_adapter
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: where an artefact keeps the adapter
FOLDER = "adapter"


@dataclass(frozen=True, eq=False)
class Sources:
    """The low-rank changes of several adapters of one base.

    Attributes
    ----------
    names
        Adapters, in pool order.
    factors
        Tensor -> adapter -> (left, right) with scaling in ``left``: the adapter adds ``left @ right``.
    """

    names: tuple[str, ...]
    factors: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]
    transposed: bool
    wrapping: tuple[str, str]
    embeddings: frozenset[str]

    @classmethod
    def of(cls, on: Problem) -> Sources:
        """Read the adapters of a problem.

        Raises
        ------
        PlanError
            An expert that is no adapter, or adapters that do not go together.
        CheckpointError
            An adapter with tensors that are stored whole.
        """
        adapters: list[AdapterCheckpoint] = []
        for name, expert in on.experts.items():
            if not isinstance(expert, AdapterCheckpoint):
                raise PlanError(
                    f"the expert {name!r} ({expert.label}) is no LoRA adapter, and there is nothing "
                    "to scale per layer",
                    hint="Give adapters, or make one of it with taskloom.extract",
                )
            if expert.whole:
                raise CheckpointError(
                    f"{expert.path}: the adapter stores {expert.whole[0]!r} whole, which is no "
                    "low-rank change",
                    hint="Train it without modules_to_save and with bias='none'",
                )
            adapters.append(expert)
        ways = {(each.config.transposed, each.wrapping) for each in adapters}
        if len(ways) != 1:
            raise PlanError(
                "the adapters name or orient their matrices differently: "
                + ", ".join(str(each.path) for each in adapters),
                hint="Give adapters that peft saved of one and the same model",
            )
        factors: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for name, each in zip(on.experts, adapters, strict=True):
            for tensor in each.low_rank:
                found = each.factors(tensor)
                if found is not None:
                    left, right, scaling = found
                    pair = (left.float() * scaling, right.float())
                    factors.setdefault(tensor, {})[name] = pair
        ordered = {name: factors[name] for name in on.base.tensors if name in factors}
        (way,) = ways
        embeddings = frozenset().union(*(each.embeddings for each in adapters))
        return cls(tuple(on.experts), ordered, *way, embeddings)

    def places(self, probe: Probe) -> dict[str, str]:
        """Return tensor -> the module of a probe that it is the weight of."""
        stored = {tensor: inside for inside, tensor in probe.places.items()}
        return {tensor: stored[tensor].rpartition(".")[0] for tensor in self.factors}

    def edits(self, probe: Probe, weights: Callable[[str], Mapping[str, Tensor]]) -> list[Edit]:
        """Return what adds the weighted outputs of all adapters.

        Parameters
        ----------
        weights
            Tensor -> adapter -> a number, or one per output; asked for at every run.
        """

        def at(tensor: str, place: str) -> Edit:
            def change(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
                asked = weights(tensor)
                pairs = self.factors[tensor].items()
                return out + sum(
                    asked[name] * passed(module, given, left, right) for name, (left, right) in pairs
                )

            return Edit(place, change)

        return [at(tensor, place) for tensor, place in self.places(probe).items()]

    def folded(self, weights: Callable[[str], Mapping[str, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return tensor -> factors of the weighted sum: ranks side by side, weights in the factors."""
        found = {}
        for tensor, pairs in self.factors.items():
            asked = weights(tensor)
            lefts, rights = [], []
            for name, (left, right) in pairs.items():
                weight = asked[name].detach()
                outputs_right = weight.ndim > 0 and (self.transposed or tensor in self.embeddings)
                lefts.append(left if outputs_right else weight.reshape(-1, 1) * left)
                rights.append(right * weight if outputs_right else right)
            found[tensor] = (torch.cat(lefts, 1), torch.cat(rights, 0))
        return found

    def write(self, on: Problem, folded: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> None:
        """Write an adapter that peft loads."""
        with write_adapter(
            folder / FOLDER, on.base.tensors, transposed=self.transposed, wrapping=self.wrapping
        ) as writer:
            for tensor, (left, right) in folded.items():
                embedding = tensor in self.embeddings
                writer.low_rank(tensor, left, right, embedding=embedding)
            writer.finish(Layout((), (), ()))


def passed(module: nn.Module, given: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return what a change ``left @ right`` of a module's weight adds to its output.

    Raises
    ------
    PlanError
        A module that neither multiplies nor looks up.
    """
    if isinstance(module, nn.Embedding):
        return linear(left[given], right.T)
    if isinstance(module, nn.Linear):
        return linear(linear(given, right.to(given.dtype)), left.to(given.dtype))
    if is_linear(module):
        return linear(linear(given, left.T.to(given.dtype)), right.T.to(given.dtype))
    raise PlanError(
        f"a low-rank change of a {type(module).__name__} has no output to scale",
        hint="Give adapters of linear layers and embeddings",
    )


def adapter_edits(folder: Path | None) -> list[Edit]:
    """Return what the adapter of an artefact adds to a plain model's layers.

    Raises
    ------
    PlanError
        The module was not opened from a folder.
    """
    if folder is None:
        raise PlanError(
            "the adapter of this module lies in the folder it is saved to",
            hint="Save it, and open the folder",
        )
    weights = SafetensorsCheckpoint(folder / FOLDER / WEIGHTS)
    config = json.loads((folder / FOLDER / CONFIG).read_text(encoding="utf-8"))
    parts = sort_keys(weights.tensors, str(folder))

    def at(place: str, keys: Mapping[str, str], embedding: bool) -> Edit:
        a, b = weights.read(keys["A"]).float(), weights.read(keys["B"]).float()
        swapped = embedding or bool(config.get("fan_in_fan_out"))
        left, right = (a.T, b.T) if swapped else (b, a)

        def change(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
            return out + passed(module, given, left, right)

        return Edit(place, change)

    return [at(name, keys, embedding) for name, keys, embedding in parts.modules]
