"""What an adapter's tensors are called, and which of the base's tensors they change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from taskloom.errors import CheckpointError

_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])(\.[^.]+)?")
_SAVED = re.compile(r"\.modules_to_save(?:\.(?!weight$|bias$)[^.]+(?=\.[^.]+$))?")


@dataclass
class Parts:
    """An adapter's tensors, sorted by what they do; module names without peft's prefix.

    Attributes
    ----------
    linear, embedding
        Module -> {"A": key, "B": key}.
    saved
        Tensor name -> key of the tensor that replaces it.
    """

    linear: dict[str, dict[str, str]] = field(default_factory=dict)
    embedding: dict[str, dict[str, str]] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> Iterator[tuple[str, dict[str, str], bool]]:
        """Every adapted module: name, its keys, and whether it is an embedding."""
        for module, keys in self.linear.items():
            yield module, keys, False
        for module, keys in self.embedding.items():
            yield module, keys, True


def sort_keys(keys: Iterable[str], label: str) -> Parts:
    """Sort an adapter's keys.

    Both spellings are understood: with the adapter's name (``lora_A.default.weight``,
    ``modules_to_save.default.weight``) and, as peft saves it, without.

    Raises
    ------
    CheckpointError
        Keys of adapters other than plain LoRA, one factor without the other, two adapters in one
        file, or nothing at all.
    """
    parts = Parts()
    for key in keys:
        name = key
        while name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        if match := _LORA.fullmatch(name):
            _add(parts.linear, match, key, label)
        elif match := _EMBEDDING.fullmatch(name):
            _add(parts.embedding, match, key, label)
        elif ".lora_" in name:
            raise CheckpointError(
                f"{label}: tensor {key!r} is not of plain LoRA (DoRA, biased LoRA, or another kind)",
                hint="Merge it into its base with peft and use the result",
            )
        else:
            _add_saved(parts, name, key, label)
    _check_pairs(parts, label)
    return parts


def find_base_names(parts: Parts, base: Mapping[str, object]) -> dict[str, str] | None:
    """Return module -> the base's name of it, or None if the base lacks any of them.

    The base may have been saved with or without the wrapper that the adapter was trained in
    (``bert.encoder...`` or ``encoder...``): one leading part is taken off, or put before, if all
    adapted modules are found that way.
    """
    modules = [module for module, _, _ in parts.modules] or [
        name.rpartition(".")[0] for name in parts.saved
    ]
    heads = dict.fromkeys(name.partition(".")[0] for name in base)
    renamings = [{module: module for module in modules}]
    if len({module.partition(".")[0] for module in modules}) == 1:
        renamings.append({module: module.partition(".")[2] for module in modules})
    renamings += [{module: f"{head}.{module}" for module in modules} for head in heads]
    for renaming in renamings:
        if all(f"{name}.weight" in base for name in renaming.values()):
            return renaming
    return None


def rename(name: str, renaming: Mapping[str, str]) -> str:
    """Rename a tensor the way `find_base_names` renamed the modules.

    >>> rename("bert.pooler.dense.bias", {"bert.encoder.q": "encoder.q"})
    'pooler.dense.bias'
    >>> rename("pooler.dense.bias", {"encoder.q": "bert.encoder.q"})
    'bert.pooler.dense.bias'
    """
    for old, new in renaming.items():
        if old != new and old.endswith(f".{new}"):
            return name.removeprefix(old.removesuffix(new))
        if old != new:
            return new.removesuffix(old) + name
        break
    return name


def wrapping(renaming: Mapping[str, str]) -> tuple[str, str]:
    """Return what stands before the adapter's names, and what before the base's.

    >>> wrapping({"bert.encoder.q": "encoder.q"}), wrapping({"encoder.q": "bert.encoder.q"})
    (('bert.', ''), ('', 'bert.'))
    """
    for old, new in renaming.items():
        if old != new:
            return (
                (old.removesuffix(new), "") if old.endswith(f".{new}") else ("", new.removesuffix(old))
            )
    return "", ""


def _add(table: dict[str, dict[str, str]], match: re.Match[str], key: str, label: str) -> None:
    sides = table.setdefault(match["module"], {})
    if match["side"] in sides:
        raise CheckpointError(
            f"{label}: tensors {sides[match['side']]!r} and {key!r}: expected one adapter, found two",
            hint="Save each adapter on its own",
        )
    sides[match["side"]] = key


def _add_saved(parts: Parts, name: str, key: str, label: str) -> None:
    plain = _SAVED.sub("", name).replace(".base_layer.", ".")
    if plain in parts.saved:
        raise CheckpointError(
            f"{label}: tensors {parts.saved[plain]!r} and {key!r}: expected one adapter, found two",
            hint="Save each adapter on its own",
        )
    parts.saved[plain] = key


def _check_pairs(parts: Parts, label: str) -> None:
    for module, keys, embedding in parts.modules:
        for side in ("A", "B"):
            if side not in keys:
                kind = "lora_embedding_" if embedding else "lora_"
                raise CheckpointError(
                    f"{label}: module {module!r}: expected {kind}A and {kind}B, found no {kind}{side}",
                    hint="The adapter is incomplete; get it again",
                )
    if not parts.linear and not parts.embedding and not parts.saved:
        raise CheckpointError(f"{label}: the adapter holds no tensors", hint="Get it again")
