"""A named chain with its numbers: what is merged, written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from taskloom import registry
from taskloom.algebra import Chain
from taskloom.errors import PlanError
from taskloom.lazy import Tensor


@dataclass(frozen=True, eq=False)
class Recipe:
    """A merging method and the options it is run with; immutable, equal by name and options.

    Examples
    --------
    >>> recipe = Recipe.of("ties", density=0.1)
    >>> print(recipe.chain)
    keep(0.1, model) -> elect -> mean(kept) -> scale(1)
    >>> recipe.chain.reads
    3
    """

    method: str
    options: Mapping[str, Any]
    chain: Chain = field(repr=False)

    @classmethod
    def of(cls, method: str, *, seed: int | None = None, **options: Any) -> Recipe:
        """Look the method up, check its options, compose its chain.

        Parameters
        ----------
        method
            A registered name; see ``taskloom methods``.
        seed
            Handed to the method when it draws random numbers and ``options`` names no seed of its own.
        **options
            The method's options, checked against its signature.

        Raises
        ------
        UnknownName, PlanError
            A method or option that does not exist, or a value out of range.
        """
        entry = registry.get("merge", method)
        if seed is not None and "seed" in entry.schema.model_fields:
            options = {"seed": seed, **options}
        for name, value in options.items():
            _refuse_loose_tensors(method, name, value)
        checked = entry.validate(options)
        try:
            composed: Chain = entry.function(**checked)
        except ValueError as error:
            raise PlanError(f"{method}: {error}") from None
        return cls(method, MappingProxyType(checked), composed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return self.method, json.dumps(self.plain(), sort_keys=True)

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON-ready data; a learned tensor is shown by its values."""
        return {
            name: value.detach().tolist() if isinstance(value, Tensor) else value
            for name, value in self.options.items()
        }


def _refuse_loose_tensors(method: str, name: str, value: Any) -> None:
    """Numbers taken out of tensors one by one would lose their gradient without a word."""
    inside = value.values() if isinstance(value, Mapping) else value
    if isinstance(inside, Iterable) and not isinstance(inside, str | Tensor):
        for each in inside:
            if isinstance(each, Tensor) and each.requires_grad:
                raise PlanError(
                    f"{method}: option {name!r} holds tensors that require grad one by one",
                    hint="Give one 1-d tensor in pool order, such as torch.stack of them",
                )
