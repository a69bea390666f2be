"""Which of a model's tensors peft can keep whole beside low-rank changes, and how they are named."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from taskloom.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """How tensors that are stored whole are told to peft.

    Attributes
    ----------
    modules
        Names for ``modules_to_save``; none lies inside another.
    tensors
        Everything in these modules, changed or not, in the model's order: peft wants them complete.
    biases
        Biases outside these modules, stored by themselves, in the model's order.
    """

    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    biases: tuple[str, ...]


def lone(names: Iterable[str], tensors: Collection[str]) -> tuple[str, ...]:
    """Return those of ``names`` that peft has no place for unless a larger module is saved whole.

    A bias is stored by itself; anything else goes with its module. A parameter without a module, or
    of a module that holds other modules (a ViT's ``embeddings.cls_token``), has no such place.

    >>> lone(["norm.weight", "logit_scale", "emb.cls"], ["norm.weight", "emb.cls", "emb.p.weight"])
    ('logit_scale', 'emb.cls')
    """
    holders = {".".join(parts[:end]) for parts in _split(tensors) for end in range(1, len(parts) - 1)}
    return tuple(
        name for name in names if not _is_bias(name) and ((m := _module(name)) in holders or not m)
    )


def lay_out(
    changed: Collection[str],
    *,
    adapted: Collection[str],
    tensors: Collection[str],
    containers: Iterable[str] = (),
    label: str = "the adapter",
) -> Layout:
    """Find the modules that must be saved whole so that every changed tensor has its place.

    Parameters
    ----------
    changed
        Tensors to store whole; those that `lone` returns are the caller's to refuse.
    adapted
        Modules with a low-rank change.
    tensors
        All tensors of the model.
    containers
        Modules to be saved with all they hold.
    label
        How messages call the adapter.

    Raises
    ------
    CheckpointError
        peft, which finds modules to save by the end of their names, would take an adapted module for
        one of them.
    """
    wanted = {*containers, *(_module(name) for name in changed if not _is_bias(name))}
    modules = _grow(_outermost(wanted), adapted, tensors, label)
    stored = tuple(name for name in tensors if under(name, modules))
    held = set(stored)
    biases = tuple(name for name in tensors if name in changed and name not in held)
    return Layout(tuple(sorted(modules)), stored, biases)


def _split(names: Iterable[str]) -> list[list[str]]:
    return [name.split(".") for name in names]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_bias(name: str) -> bool:
    return name.endswith(".bias")


def under(name: str, modules: Collection[str]) -> bool:
    """Say whether a tensor belongs to one of the modules, or to a module inside them.

    >>> under("pooler.dense.bias", {"pooler"}), under("pooler_2.bias", {"pooler"})
    (True, False)
    """
    parts = name.split(".")
    return any(".".join(parts[:end]) in modules for end in range(1, len(parts)))


def _outermost(modules: Collection[str]) -> set[str]:
    return {module for module in modules if not under(module, set(modules) - {module})}


def _grow(modules: set[str], adapted: Collection[str], tensors: Collection[str], label: str) -> set[str]:
    """Add the modules that peft confuses with the wanted ones, refuse if they are adapted."""
    if not modules:
        return modules
    every = {".".join(parts[:end]) for parts in _split(tensors) for end in range(1, len(parts))}
    grown = modules | {name for name in every if name.endswith(tuple(modules))}
    outer = _outermost(grown)
    pattern = re.compile("|".join(rf"(?:^|.*\.)(?:{re.escape(name)})(?:$|\.)" for name in grown))
    clash = next((name for name in adapted if under(f"{name}.", outer) or pattern.match(name)), None)
    if outer != grown or clash is not None:
        raise CheckpointError(
            f"{label}: peft finds modules to save by the end of their names and would confuse "
            f"{', '.join(sorted(modules)[:3])} with {clash or sorted(grown - outer)[0]!r}",
            hint="Keep that module whole too, or leave the changed tensors out",
        )
    return grown
