"""A model with its head as a function of named weights, and the examples that are run through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from taskloom.errors import DataError
from taskloom.learn.data import Labelled, check_split
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.store.memory import MemoryCheckpoint

#: inputs of a batch (a tensor, or keyword arguments as tensors), and its labels ``(B,)`` or None
Batch = tuple[Any, Tensor | None]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Probe:
    """A model at certain weights, run through `torch.func.functional_call`.

    Attributes
    ----------
    module
        Runs; its own weights are not changed.
    weights
        Stored name -> tensor: all that the model is run with.
    trained
        Names of the parameters among them, each tied one once.
    places
        Name inside the module -> stored name.
    run
        (weights, inputs) -> logits ``(B, C)``; differentiable.
    digest
        Of the weights as they are stored.
    label
        How messages call it.
    features
        (weights, inputs) -> what the head reads ``(B, D)``, where the head is not part of the module;
        else None.
    head
        Weight ``(C, D)`` and bias ``(C,)`` of such a head.
    """

    module: nn.Module
    weights: Weights
    trained: tuple[str, ...]
    places: Mapping[str, str]
    run: Callable[[Weights, Any], Tensor]
    digest: str
    label: str
    features: Callable[[Weights, Any], Tensor] | None = None
    head: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of_module(
        cls, module: nn.Module, *, weights: Weights | None = None, label: str = "the module"
    ) -> Probe:
        """Return a probe of a module whose output is logits, or has ``logits``.

        Parameters
        ----------
        module
            Any module; it is run in eval mode.
        weights
            Used instead of its own, by the names of its state dict.
        """
        own = dict(module.state_dict(keep_vars=True))
        given = {name: (weights or own).get(name, own[name]) for name in own}
        used = {name: tensor.detach() for name, tensor in given.items()}
        for name, first in MemoryCheckpoint(given).aliases.items():
            used[name] = used[first]  # tied weights are one tensor, which is what a call asks for

        def run(given: Weights, inputs: Any) -> Tensor:
            args, named = ((), inputs) if isinstance(inputs, Mapping) else ((inputs,), {})
            out = functional_call(module, dict(given), args, dict(named))
            logits: Tensor = out if isinstance(out, Tensor) else out.logits
            return logits

        trained = tuple(name for name, _ in module.named_parameters())
        places = {name: name for name in own}
        source = module if weights is None else weights
        return cls(module, used, trained, places, run, MemoryCheckpoint(source).digest(), label)

    @classmethod
    def of_encoder(
        cls,
        encoder: Encoder,
        head: Head,
        *,
        weights: Weights | None = None,
        digest: str | None = None,
        label: str = "",
    ) -> Probe:
        """Return a probe of an encoder under a head, which is not part of the weights.

        Parameters
        ----------
        weights
            Used instead of its own, by stored name.
        digest
            Of ``weights`` as stored; computed if None.
        """
        if head.weight.shape[1] != encoder.dim:
            raise DataError(
                f"task {head.task!r}: expected a head on {encoder.dim} features, "
                f"found one on {head.weight.shape[1]}",
                hint="Use the head that belongs to this encoder",
            )
        state = dict(encoder.state_dict() if weights is None else weights)
        matrix, bias = torch.from_numpy(head.weight), torch.from_numpy(head.bias)
        inside = {encoder.names[name]: name for name in state if name in encoder.names}
        trained = tuple(inside[name] for name, _ in encoder.module.named_parameters() if name in inside)

        def pooled(given: Weights, inputs: Any) -> Tensor:
            return encoder.pooled(inputs, given)

        def run(given: Weights, inputs: Any) -> Tensor:
            return nn.functional.linear(pooled(given, inputs), matrix, bias)

        return cls(
            encoder.module,
            {name: tensor.detach() for name, tensor in state.items() if name in encoder.names},
            trained,
            inside,
            run,
            digest or MemoryCheckpoint(state).digest(),
            label or str(encoder.directory),
            pooled,
            (matrix, bias),
        )

    def logits(self, inputs: Any, weights: Weights | None = None) -> Tensor:
        """Run a batch in eval mode; ``weights`` replace the probe's, those it names."""
        was = self.module.training
        self.module.eval()
        try:
            return self.run(self.weights if weights is None else {**self.weights, **weights}, inputs)
        finally:
            self.module.train(was)

    def gradients(self, losses: Iterable[Tensor], weights: Weights) -> Iterator[dict[str, Tensor]]:
        """Yield the gradient of each scalar with respect to ``weights``; zeros where unused."""
        wanted = list(weights.values())
        pending = list(losses)
        for number, loss in enumerate(pending):
            found = torch.autograd.grad(
                loss, wanted, retain_graph=number + 1 < len(pending), allow_unused=True
            )
            yield {
                name: torch.zeros_like(weight) if grad is None else grad
                for (name, weight), grad in zip(weights.items(), found, strict=True)
            }

    def leaves(self) -> dict[str, Tensor]:
        """Return the trained weights in float32 as leaves that require grad."""
        return {name: self.weights[name].detach().float().requires_grad_() for name in self.trained}


@dataclass(frozen=True, eq=False)
class Setting:
    """What a statistic is collected from.

    Attributes
    ----------
    probe
        The expert.
    batches
        Can be gone through several times, in the same order.
    base
        Weights the expert was tuned from, by stored name, for statistics that compare.
    against
        Other experts' weights by name, for statistics that compare.
    progress
        Told how many examples are done.
    """

    probe: Probe
    batches: Examples
    base: Weights | None = None
    against: Mapping[str, Weights] = field(default_factory=dict)
    progress: Progress = silent


class Examples:
    """Batches that are made when they are asked for, the same ones every time.

    Parameters
    ----------
    make
        Returns an iterator of batches.
    count
        Examples in all.
    """

    def __init__(self, make: Callable[[], Iterable[Batch]], count: int) -> None:
        self._make = make
        self.count = count

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._make())

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Examples:
        """Keep batches that are already there.

        Raises
        ------
        DataError
            There are none.
        """
        kept = list(batches)
        count = sum(size_of(inputs) for inputs, _ in kept)
        if not count:
            raise DataError("no examples to collect a statistic from", hint="Give at least one batch")
        return cls(lambda: kept, count)

    @classmethod
    def of_task(
        cls,
        encoder: Encoder,
        head: Head,
        data: Labelled,
        *,
        count: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> Examples:
        """Draw examples of a task without replacement, and batch them by length.

        Parameters
        ----------
        data
            Inputs and labels.
        count
            How many; all there are if None or more.
        seed
            Of the draw.

        Raises
        ------
        DataError
            No examples, or labels that the head does not know.
        """
        labels = check_split(data, head, split="examples")
        encoded = encoder.encode(data[0])
        rows = np.random.default_rng(seed).permutation(len(labels))[: count or len(labels)]
        rows = rows[np.argsort(encoded.lengths[rows], kind="stable")]

        def make() -> Iterator[Batch]:
            for first in range(0, len(rows), batch_size):
                chosen = rows[first : first + batch_size]
                yield encoded.batch(chosen), torch.from_numpy(labels[chosen])

        return cls(make, len(rows))

    def singles(self) -> Iterator[Batch]:
        """Yield the examples one by one, as batches of one."""
        for inputs, labels in self:
            for i in range(size_of(inputs)):
                one = (
                    {name: value[i : i + 1] for name, value in inputs.items()}
                    if isinstance(inputs, Mapping)
                    else inputs[i : i + 1]
                )
                yield one, None if labels is None else labels[i : i + 1]


def size_of(inputs: Any) -> int:
    """Return the number of examples of a batch."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def labels_of(labels: Tensor | None, statistic: str) -> Tensor:
    """Return labels, or refuse a batch without them."""
    if labels is None:
        raise DataError(
            f"the statistic {statistic!r} needs labels, and a batch has none",
            hint="Give (inputs, labels)",
        )
    return labels
