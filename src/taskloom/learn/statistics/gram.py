"""Gram matrices of the inputs of linear layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.errors import DataError
from taskloom.learn.probe import Setting, size_of
from taskloom.registry import register


@register(
    "statistic",
    paper="Jin et al., Dataless knowledge fusion by merging weights, ICLR 2023, section 3.2",
    needs=("unlabeled inputs",),
)
def gram(
    on: Setting, *, padding: Literal["skip", "count"] = "skip"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Mean of ``x x^T`` over the inputs x of every linear layer.

    One forward pass per batch, the inputs taken by hooks; no labels. A layer of ``in`` inputs takes
    ``in^2`` numbers, float32, summed up in float64. Layers that no input reaches are left out.

    Released code counts padding tokens, whose vectors no other token attends to; the paper does not
    speak of them. Its default of 1000 counts batches.

    Parameters
    ----------
    padding
        Whether tokens that the attention mask leaves out are counted.
    """
    probe = on.probe
    found = _Inputs(padding == "skip")
    layers = {
        probe.places[weight]: layer
        for name, layer in probe.module.named_modules()
        if (weight := f"{name}.weight".lstrip(".")) in probe.places
        and (isinstance(layer, nn.Linear) or _is_turned(layer))
    }
    if not layers:
        raise DataError(
            f"gram: {probe.label} has no linear layers", hint="RegMean is the plain mean for it"
        )
    hooks = [
        layer.register_forward_pre_hook(found.hook(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    done = 0
    try:
        with torch.no_grad():
            for inputs, _ in on.batches:
                found.mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
                probe.logits(inputs)
                done += size_of(inputs)
                on.progress("gram", done, on.batches.count)
    finally:
        for hook in hooks:
            hook.remove()
    matrices = {n: (total / found.seen[n]).float() for n, total in found.sums.items()}
    turned = [name for name in matrices if _is_turned(layers[name])]
    return matrices, {"transposed": json.dumps(turned)}


def _is_turned(layer: nn.Module) -> bool:
    """Whether the weight is stored (in, out): GPT-2's layers."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


class _Inputs:
    """Sums of ``x x^T`` by layer."""

    def __init__(self, skip: bool) -> None:
        self.sums: dict[str, Tensor] = {}
        self.seen: dict[str, int] = {}
        self.mask: Tensor | None = None
        self._skip = skip

    def hook(self, name: str) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = (args[0] if args else next(iter(named.values()))).detach()
            if self._skip and self.mask is not None and x.shape[:-1] == self.mask.shape:
                x = x[self.mask.bool()]
            rows = x.reshape(-1, x.shape[-1]).double()
            self.sums[name] = self.sums.get(name, 0.0) + rows.T @ rows
            self.seen[name] = self.seen.get(name, 0) + len(rows)

        return see
