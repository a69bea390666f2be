"""Which tensors of a model belong to which layer: read off their names and the configuration.

There is no table of architectures. A stack of layers is a prefix followed by numbers 0 .. n - 1, such
as ``model.layers.``, ``transformer.h.`` or ``encoder.layer.``, where some key of the configuration
says n.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from taskloom.errors import CheckpointError

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?<![^.])(?P<number>\d+)\.(?P<rest>.+)")
_COUNT = re.compile(
    r"(num_(hidden_|encoder_|decoder_)?layers|n_layers?|(encoder|decoder)_layers|depth|num_blocks)"
)
#: parts of names of what comes before the first layer
_FRONT = re.compile(
    r"(^|[._])(embed\w*|embd|wte|wpe|emb|patch_embedding|pos_embed|tok_embeddings)([._]|$)"
)
_OUTPUT = re.compile(r"(^|[._])(embed_out|lm_head|output|unembed)([._]|$)")


@dataclass(frozen=True)
class Layers:
    """A stack of layers.

    Attributes
    ----------
    prefix
        What stands before the number, with its last dot.
    count
        How many layers.
    keys
        Places in the configuration that hold that number, as dotted paths.
    """

    prefix: str
    count: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """A model's tensor names, by place.

    Attributes
    ----------
    stacks
        Its stacks of layers, by prefix.
    place
        Tensor -> (prefix, number of the layer, rest of the name) for tensors in a stack.
    loose
        All other tensors, in order.
    """

    stacks: Mapping[str, Layers]
    place: Mapping[str, tuple[str, int, str]]
    loose: tuple[str, ...]

    def layer(self, prefix: str, number: int) -> dict[str, str]:
        """Rest of the name -> tensor, of one layer."""
        return {rest: name for name, (p, n, rest) in self.place.items() if p == prefix and n == number}


def dissect(names: Mapping[str, Any] | tuple[str, ...], config: Mapping[str, Any]) -> Anatomy:
    """Sort tensor names into stacks of layers and the rest.

    Where no key of the configuration gives the length of any stack, the stack with the most tensors is
    taken as the layers.

    >>> found = dissect(("e.weight", "h.0.w", "h.1.w", "norm.weight"), {"n_layer": 2})
    >>> found.stacks, found.loose
    ({'h.': Layers(prefix='h.', count=2, keys=('n_layer',))}, ('e.weight', 'norm.weight'))
    """
    numbered: dict[str, tuple[str, int, str]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            numbered[name] = (found["prefix"], int(found["number"]), found["rest"])
    numbers: dict[str, set[int]] = {}
    sizes: dict[str, int] = {}
    for prefix, number, _ in numbered.values():
        numbers.setdefault(prefix, set()).add(number)
        sizes[prefix] = sizes.get(prefix, 0) + 1
    whole = {p: len(n) for p, n in numbers.items() if n == set(range(len(n)))}
    counts = dict(_counts(config, ""))
    stacks = {
        prefix: Layers(prefix, count, _keys(prefix, count, counts))
        for prefix, count in whole.items()
        if count in counts.values()
    }
    if not stacks and whole:
        prefix = max(whole, key=lambda p: sizes[p])
        stacks = {prefix: Layers(prefix, whole[prefix], ())}
    place = {name: where for name, where in numbered.items() if where[0] in stacks}
    return Anatomy(stacks, place, tuple(name for name in names if name not in place))


def _counts(config: Mapping[str, Any], at: str) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _counts(value, f"{at}{key}.")
        elif isinstance(value, int) and not isinstance(value, bool) and _COUNT.fullmatch(key):
            yield f"{at}{key}", value


def _keys(prefix: str, count: int, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Keys with that count; of several, those that share a word with the prefix come first."""
    fitting = [key for key, value in counts.items() if value == count]
    words = {word for word in ("encoder", "decoder", "vision", "text") if word in prefix}
    near = [key for key in fitting if any(word in key for word in words)]
    return tuple(near or fitting)


def single_stack(anatomy: Anatomy, label: str) -> Layers:
    """Return the only stack of layers.

    Raises
    ------
    CheckpointError
        There is none, or there are several.
    """
    if len(anatomy.stacks) != 1:
        found = ", ".join(f"{s.prefix}* ({s.count})" for s in anatomy.stacks.values()) or "none"
        raise CheckpointError(
            f"{label}: expected one stack of layers to cut slices from, found {found}",
            hint="Slices of models with several stacks are not supported; use models:",
        )
    return next(iter(anatomy.stacks.values()))


def is_front(name: str) -> bool:
    """Say whether a loose tensor comes before the layers (an embedding) or after them.

    >>> is_front("model.embed_tokens.weight"), is_front("lm_head.weight"), is_front("model.norm.weight")
    (True, False, False)
    """
    return bool(_FRONT.search(name)) and not _OUTPUT.search(name)
