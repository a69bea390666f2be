"""A list of steps, as it stands in a plan or a recipe file, becomes a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskloom import registry
from taskloom.algebra import Chain, chain
from taskloom.errors import PlanError, UnknownName
from taskloom.lazy import Tensor

#: what a recipe made of a list of steps is called
NAME = "steps"


def compose(steps: Any, *, space: str = "delta", seed: int | None = None) -> tuple[Chain, list[Any]]:
    """Look up and check every step; return their chain and the list with its options spelled out.

    Parameters
    ----------
    steps
        A list of names, of ``{name: {option: value}}``, or of ``{name: value}`` for the first option.
        A name is a step's (``taskloom methods step``) or a merging method's.
    space
        ``"delta"``: steps see task vectors, and the result is added to the base; ``"weight"``: they
        see the experts' weights.
    seed
        For steps that draw random numbers and name no seed of their own.

    Raises
    ------
    UnknownName, PlanError
        A name, option or value that does not exist or cannot be, by the number of the step.
    """
    if space not in ("delta", "weight"):
        raise PlanError(f"steps: space is {space!r}", hint="Take 'delta' or 'weight'")
    if isinstance(steps, str | Mapping) or not isinstance(steps, Sequence) or not steps:
        raise PlanError(
            f"steps: expected a list of one step or more, found {steps!r}",
            hint="Write for instance [{keep: {density: 0.2}}, elect, {mean: kept}]",
        )
    made, said = [], []
    for number, item in enumerate(steps, start=1):
        name, options = read_step(item, number)
        entry = _entry(name, number)
        if not isinstance(options, Mapping):
            options = {_first_option(entry, options, number): options}
        fields = entry.schema.model_fields
        if seed is not None and "seed" in fields:
            options = {"seed": seed, **options}
        part, checked = _made(entry, options, number)
        if entry.family == "merge" and part.space != space:
            raise PlanError(
                f"step {number}: {name} works in the space {part.space!r}, and these steps in {space!r}",
                hint=f"Set space to {part.space!r}, or take another method",
            )
        made.append(part)
        said.append({name: checked})
    return _joined(made, space), said


def read_step(item: Any, number: int) -> tuple[str, Any]:
    """Return name and options (a mapping, or one value) of an item of the list.

    Raises
    ------
    PlanError
        It is neither a name nor a mapping with one name.
    """
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, options),) = item.items()
        if isinstance(name, str):
            return name, {} if options is None else options
    raise PlanError(
        f"step {number}: expected a name, or one name with its options, found {item!r}",
        hint="Write elect, or {keep: {density: 0.2}}",
    )


def set_option(steps: Sequence[Any], where: str, value: Any) -> list[Any]:
    """Return the list with one option set; ``where`` is ``step.option``, or ``number.option``.

    >>> set_option(["total", "scale"], "scale.factor", 0.5)
    ['total', {'scale': {'factor': 0.5}}]

    Raises
    ------
    PlanError
        No step, or more than one, is meant, or the option is set already.
    """
    target, dot, option = where.rpartition(".")
    names = [read_step(item, number)[0] for number, item in enumerate(steps, start=1)]
    found = [index for index, name in enumerate(names) if target in (name, str(index + 1))]
    if not dot or len(found) != 1:
        several = f"{len(found)} steps" if found else "no step"
        raise PlanError(
            f"steps: {where!r} means {several}",
            hint=f"Write step.option or number.option; the steps are {', '.join(names)}",
        )
    (index,) = found
    name, options = read_step(steps[index], index + 1)
    if not isinstance(options, Mapping):
        options = {_first_option(_entry(name, index + 1), options, index + 1): options}
    if option in options:
        raise PlanError(f"steps: {where!r} is both set and swept", hint="Keep one of them")
    changed = list(steps)
    changed[index] = {name: {**options, option: value}}
    return changed


def _entry(name: str, number: int) -> registry.Entry:
    for family in ("step", "merge"):
        try:
            return registry.get(family, name)
        except UnknownName:
            continue
    known = {entry.name for family in ("step", "merge") for entry in registry.entries(family)}
    raise UnknownName("merging step", name, known, where=f"step {number}")


def _first_option(entry: registry.Entry, value: Any, number: int) -> str:
    fields = list(entry.schema.model_fields)
    if not fields:
        raise PlanError(f"step {number}: {entry.name} takes no options, found {value!r}")
    return fields[0]


def _made(
    entry: registry.Entry, options: Mapping[str, Any], number: int
) -> tuple[Chain, dict[str, Any]]:
    if any(isinstance(value, Tensor) for value in options.values()):
        raise PlanError(
            f"step {number}: {entry.name} is given a tensor, and a list of steps is plain data",
            hint="Give numbers, or compose a chain with taskloom.algebra to keep gradients",
        )
    fields = entry.schema.model_fields
    missing = [name for name, info in fields.items() if info.is_required() and name not in options]
    try:
        if missing and all(name in fields for name in options):
            raise PlanError(f"{entry.name}: the option {missing[0]!r} is missing")
        checked = entry.validate(options)
        part: Chain = entry.function(**checked)
    except (PlanError, ValueError) as error:
        raise PlanError(f"step {number}: {error}") from None
    return part, {name: _plain(value) for name, value in checked.items()}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _joined(parts: Sequence[Chain], space: str) -> Chain:
    lowest = max(part.experts[0] for part in parts)
    highest = [part.experts[1] for part in parts if part.experts[1] is not None]
    experts = lowest, min(highest) if highest else None
    otherwise = None
    if any(part.otherwise is not None for part in parts):
        otherwise = chain(*(part.otherwise or part for part in parts), space=space, experts=experts)
    return chain(*parts, space=space, experts=experts, otherwise=otherwise)
