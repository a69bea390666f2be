"""Where in a model a tensor is: its layer and its module type, read from its name alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: module type of tensors that stand outside the layers, or directly in one
OTHER = "other"

_NUMBERED = re.compile(r"(layers?|blocks?|stages?|h)[_-]?(\d+)", re.ASCII)
_DIGITS = re.compile(r"\d+", re.ASCII)
#: containers of layers, which say nothing where there is one stack of them
_CONTAINERS = frozenset({"layer", "layers", "block", "blocks", "h", "stage", "stages"})
#: what stands before the first layer
_INPUT = re.compile(r"embed|wte|wpe|shared|patch|cls_token|stem", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Attributes
    ----------
    stack
        What holds the layer, such as ``encoder.block``; for a tensor outside all layers its module,
        such as ``embeddings.word_embeddings``.
    layer
        Number of the layer in its stack; None outside the layers.
    module
        Module type within the layer, such as ``self_attn.q_proj``, without numbers (experts of a
        mixture share one type); ``other`` where there is none.
    """

    stack: str
    layer: int | None
    module: str


def place_of(name: str) -> Place:
    """Read a tensor's place from its name: the first number among its parts is the layer.

    >>> place_of("model.layers.3.self_attn.q_proj.weight")
    Place(stack='model.layers', layer=3, module='self_attn.q_proj')
    >>> place_of("decoder.block.0.layer.1.EncDecAttention.q.weight").module
    'EncDecAttention.q'
    >>> place_of("layer2.0.conv1.weight")
    Place(stack='layers', layer=2, module='conv1')
    >>> place_of("embeddings.LayerNorm.bias")
    Place(stack='embeddings.LayerNorm', layer=None, module='other')
    """
    parts = name.split(".")
    for at, part in enumerate(parts):
        numbered = _NUMBERED.fullmatch(part)
        if numbered or _DIGITS.fullmatch(part):
            stack = [*parts[:at], "layers"] if numbered else parts[:at]
            number = int(numbered.group(2)) if numbered else int(part)
            return Place(".".join(stack), number, _module(parts[at + 1 :]))
    return Place(".".join(parts[:-1]) or name, None, OTHER)


def _module(parts: list[str]) -> str:
    """Join what is left of a name within its layer, without numbers, containers and the leaf."""
    kept = [p for p in parts[:-1] if not _DIGITS.fullmatch(p) and p not in _CONTAINERS]
    return ".".join(kept) or OTHER


def rows_and_columns(
    names: Iterable[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return tensor -> label of its row (a layer, or a module outside) and -> its module type.

    Rows come in the order of the model: what stands before the layers, the layers by number, stack
    by stack, and what follows. Module types come in the order in which the names have them.

    >>> names = ["norm.weight", "layers.10.mlp.weight", "layers.2.mlp.weight", "embed.weight"]
    >>> rows, columns = rows_and_columns(names)
    >>> list(rows.values())
    ['embed', 'layer 2', 'layer 10', 'norm']
    >>> columns["layers.2.mlp.weight"], columns["embed.weight"]
    ('mlp', 'other')
    """
    places = {name: place_of(name) for name in names}
    stacks = list(dict.fromkeys(p.stack for p in places.values() if p.layer is not None))
    labels = _stack_labels(stacks)

    def order(name: str) -> tuple[int, int, int]:
        place = places[name]
        if place.layer is None:
            return (0 if _INPUT.search(name) else 2, 0, 0)
        return (1, stacks.index(place.stack), place.layer)

    ordered = sorted(places, key=order)
    outside = _outside_labels({p.stack for p in places.values() if p.layer is None})
    rows = {}
    for name in ordered:
        place = places[name]
        numbered = place.layer is not None
        rows[name] = f"{labels[place.stack]} {place.layer}" if numbered else outside[place.stack]
    return rows, {name: places[name].module for name in ordered}


def _outside_labels(modules: set[str]) -> dict[str, str]:
    """Name modules outside the layers by an embedding's last part, else by the last two, if unique."""
    short = {}
    for module in modules:
        parts = module.split(".")
        short[module] = parts[-1] if _INPUT.search(parts[-1]) else ".".join(parts[-2:])
    names = list(short.values())
    return {m: label if names.count(label) == 1 else m for m, label in short.items()}


def _stack_labels(stacks: list[str]) -> dict[str, str]:
    """Name stacks as short as tells them apart: one stack is just ``layer``."""
    if len(stacks) == 1:
        return {stacks[0]: "layer"}
    short = {stack: _without_container(stack) for stack in stacks}
    unique = len(set(short.values())) == len(stacks) and all(short.values())
    return short if unique else {stack: stack or "layer" for stack in stacks}


def _without_container(stack: str) -> str:
    parts = stack.split(".")
    return ".".join(parts[:-1]) if parts[-1] in _CONTAINERS else stack
