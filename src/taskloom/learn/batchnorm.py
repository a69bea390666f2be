"""Batch-norm statistics of a merged model, estimated anew from unlabelled examples.

Means and variances of activations are not linear in the weights: averaged with them they fit neither
expert nor merge. One pass over examples gives those of the model as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from taskloom.errors import DataError, NumericalError
from taskloom.learn.probe import size_of
from taskloom.progress import Progress, silent


def batchnorm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return the layers that keep means and variances, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def reestimate_batchnorm(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    weights: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Return a state dict whose batch-norm means and variances are those of the given examples.

    Each batch is normalised by itself on its way through the layers, as in training; dropout is off. The
    module is not changed, and no labels are needed.

    Izmailov et al. (Averaging weights leads to wider optima, UAI 2018, section 3.2) average the
    variances of the batches, weighted by their sizes; here means and variances are those of all values
    together, the spread of the batches' means included. With one batch both agree. ``running_var`` is
    the unbiased one, as torch keeps it.

    Parameters
    ----------
    module
        Any module with batch norm.
    batches
        Inputs: a tensor each, or a mapping of keyword arguments. Larger batches are nearer to training.
    weights
        Used instead of the module's own, such as what `taskloom.merge` returned.
    progress
        Told how many examples are done; the total is not known.

    Returns
    -------
    dict of str to Tensor
        The state dict of ``weights``, the statistics replaced.

    Raises
    ------
    DataError
        No batch-norm layer that keeps statistics, no examples, or a batch with one value per channel.
    NumericalError
        Activations that are not finite.
    """
    state = {name: t.detach() for name, t in module.state_dict().items()}
    state |= {name: t.detach() for name, t in (weights or {}).items()}
    layers = batchnorm_layers(module)
    if not layers:
        raise DataError(
            "the module has no batch norm that keeps statistics", hint="There is nothing to estimate"
        )
    sums = {name: _Sums() for name in layers}
    hooks = [
        layer.register_forward_pre_hook(sums[name].see, with_kwargs=True)
        for name, layer in layers.items()
    ]
    modes = {each: each.training for each in module.modules()}
    done = 0
    try:
        module.eval()
        for layer in layers.values():
            layer.train()
        for inputs in batches:
            _run(module, state, inputs)
            done += size_of(inputs)
            progress("batch norm", done, done)
    finally:
        for hook in hooks:
            hook.remove()
        for each, mode in modes.items():
            each.training = mode
    if not done:
        raise DataError("no examples to estimate batch norm from", hint="Give at least one batch")
    for name, found in sums.items():
        if found.count:
            state |= _statistics(f"{name}.".lstrip("."), found, state)
    return state


def _run(module: nn.Module, state: Mapping[str, Tensor], inputs: Any) -> None:
    """Run a batch on copies of the buffers, which a layer in training mode would change."""
    buffers = {name: state[name].clone() for name, _ in module.named_buffers() if name in state}
    args, named = ((), dict(inputs)) if isinstance(inputs, Mapping) else ((inputs,), {})
    try:
        with torch.no_grad():
            functional_call(module, {**state, **buffers}, args, named)
    except ValueError as error:
        raise DataError(
            f"batch norm cannot be estimated from a batch of {size_of(inputs)}: {error}",
            hint="Give larger batches",
        ) from error


def _statistics(prefix: str, found: _Sums, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mean, variance = found.statistics()
    if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        raise NumericalError(
            f"the activations before {prefix.rstrip('.')!r} are not finite", hint="Check the weights"
        )
    new = {f"{prefix}running_mean": mean, f"{prefix}running_var": variance}
    return {name: value.to(state[name].dtype) for name, value in new.items()}


class _Sums:
    """Count, mean and squared deviations of every channel, joined batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(1, dtype=torch.float64)
        self._squares = torch.zeros(1, dtype=torch.float64)

    def see(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Take the input ``(N, C, ...)`` of a layer."""
        rows = (args[0] if args else named["input"]).detach().double().movedim(1, -1).flatten(0, -2)
        mean = rows.mean(0)
        squares = (rows - mean).square().sum(0)
        total = self.count + len(rows)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self.count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self.count = total

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance, ``(C,)``."""
        return self._mean, self._squares / max(1, self.count - 1)
