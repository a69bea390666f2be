"""A named chain with its numbers: what is merged, written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from taskloom import registry
from taskloom.algebra import Chain
from taskloom.errors import PlanError, nearest
from taskloom.lazy import Tensor
from taskloom.merging import compose
from taskloom.merging.recipe_file import is_recipe_file, load_recipe_file


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

    def __post_init__(self) -> None:
        if self.method != compose.NAME:  # steps of one's own are called by what they are
            object.__setattr__(self, "chain", replace(self.chain, method=self.method))

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
        if method == compose.NAME:
            return cls._of_steps(options, seed)
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

    @classmethod
    def read(cls, content: Any, *, seed: int | None = None) -> Recipe:
        """Return the recipe of a list of steps, of a mapping, or of a YAML file with either.

        Parameters
        ----------
        content
            A list of steps (see `taskloom.merging.compose`); a mapping with ``steps`` and, if wanted,
            ``space``, or with ``method`` and ``options``; or the path of a ``.yaml`` or ``.yml`` file.
        seed
            As in `of`.

        Raises
        ------
        UnknownName, PlanError
            A key, name, option or value that does not exist or cannot be.

        Examples
        --------
        >>> print(Recipe.read([{"drop": 0.9}, {"keep": 0.2}, "elect", {"mean": "kept"}]).chain)
        drop(0.9, seed 0) -> keep(0.2, model) -> elect -> mean(kept)
        """
        if isinstance(content, Recipe):
            return content
        if is_recipe_file(content):
            content = load_recipe_file(content)
        if isinstance(content, Mapping):
            return cls._of_mapping(content, seed)
        if isinstance(content, Sequence) and not isinstance(content, str):
            return cls.of(compose.NAME, seed=seed, steps=content)
        raise PlanError(
            f"expected a method's name or a Recipe, found {type(content).__name__}",
            hint="A list of steps is a recipe, too; a chain of your own goes into "
            "Recipe('name', {}, chain)",
        )

    @classmethod
    def _of_mapping(cls, content: Mapping[str, Any], seed: int | None) -> Recipe:
        known = ("method", "options", "steps", "space")
        for key in content:
            if key not in known:
                guess = nearest(str(key), known)
                did = f"did you mean {guess!r}? " if guess else ""
                raise PlanError(f"recipe: unknown key {key!r}: {did}Keys: {', '.join(known)}")
        if ("steps" in content) == ("method" in content):
            raise PlanError(
                "a recipe has either steps or a method",
                hint="Write steps: [...], or method: ties and its options",
            )
        if "steps" in content:
            return cls._of_steps(content, seed)
        options = {} if content.get("options") is None else content["options"]
        if not isinstance(content["method"], str) or not isinstance(options, Mapping):
            raise PlanError("recipe: method is a name, and options map names to values")
        if "space" in content:
            raise PlanError("recipe: space goes with steps; a method has its own")
        return cls.of(content["method"], seed=seed, **options)

    @classmethod
    def _of_steps(cls, options: Mapping[str, Any], seed: int | None) -> Recipe:
        given = dict(options)
        steps, space = given.pop("steps", None), given.pop("space", "delta")
        if given:
            raise PlanError(
                f"steps: unknown option {next(iter(given))!r}: Options: steps, space",
                hint="Options belong to a step: {keep: {density: 0.2}}",
            )
        chain, said = compose.compose(steps, space=space, seed=seed)
        checked = {"steps": said, "space": space}
        return cls(compose.NAME, MappingProxyType(checked), chain)

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


#: what stands for a recipe: a method's name, the path of a recipe file, or what is in one
RecipeLike = str | Recipe | Sequence[Any] | Mapping[str, Any]


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
