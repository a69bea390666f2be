"""Everything registered, as plain data: what the command line, the reference pages and machines read.

>>> ties = next(m for m in methods() if m["name"] == "ties")
>>> ties["composition"], ties["reads"]
('keep(0.2, model) -> elect -> mean(kept) -> scale(1)', 3)
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic_core import PydanticUndefined

from taskloom.registry import Entry, entries

if TYPE_CHECKING:
    from taskloom.evaluation.task import Task

#: attributes of annotated-types constraints, and how a bound is written
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}


def methods(family: str | None = None) -> list[dict[str, Any]]:
    """Return one dict for everything registered, sorted by family and name.

    Parameters
    ----------
    family
        ``"merge"``, ``"score"``, ``"train"``, ``"metric"`` or ``"source"``; None for all.

    Returns
    -------
    list of dict
        ``family``, ``name``, ``summary``, ``paper``, ``needs``, ``composition``, ``grain`` and
        ``reads`` (at the default options; None where the family has none), ``experts`` (smallest
        and largest number, or None), ``parameters`` (see `parameters`), ``module``, ``room``,
        ``systems`` and ``partly``. Values are JSON types only.
    """
    return [describe(entry) for entry in entries(family)]


def tasks() -> list[Task]:
    """Return every built-in task, sorted by name."""
    from taskloom.evaluation.task import get_task, task_names

    return [get_task(name) for name in task_names()]


def describe(entry: Entry) -> dict[str, Any]:
    """Return the dict of one entry, as `methods` lists it."""
    module = entry.function.__module__
    return {
        "family": entry.family,
        "name": entry.name,
        "summary": entry.summary,
        "paper": entry.paper,
        "needs": list(entry.needs),
        **_shape(entry),
        "parameters": parameters(entry),
        "module": module,
        "room": module.split(".")[1] if module.startswith("taskloom.") else module,
        "systems": list(entry.systems),
        "partly": dict(entry.partly),
    }


def parameters(entry: Entry) -> list[dict[str, Any]]:
    """Return one dict per option: ``name``, ``type``, ``default``, ``required``, ``bounds``.

    ``bounds`` maps ``ge``, ``gt``, ``le``, ``lt`` to numbers; ``description`` comes from the
    docstring's Parameters section and may be empty.
    """
    told = described(inspect.getdoc(entry.function) or "")
    found = []
    for name, info in entry.schema.model_fields.items():
        default = info.get_default(call_default_factory=True)
        required = default is PydanticUndefined
        bounds = {
            key: getattr(constraint, key)
            for constraint in info.metadata
            for key in _BOUNDS
            if getattr(constraint, key, None) is not None
        }
        found.append(
            {
                "name": name,
                "type": spell(info.annotation),
                "default": None if required else _plain(default),
                "required": required,
                "bounds": bounds,
                "description": told.get(name, info.description or ""),
            }
        )
    return found


def spell(annotation: Any) -> str:
    """Write a type the way a reader of the reference wants it.

    >>> spell(Literal["paper", "mergekit"] | None), spell(tuple[float, ...])
    ("'paper' | 'mergekit' | None", 'tuple[float, ...]')
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return spell(args[0])
    if origin is Literal:
        return " | ".join(repr(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(spell(arg) for arg in args)
    if annotation is type(None) or annotation is None:
        return "None"
    if annotation is Ellipsis:
        return "..."
    name = getattr(origin or annotation, "__name__", str(annotation))
    if origin is not None and args:
        return f"{name}[{', '.join(spell(arg) for arg in args)}]"
    return str(name)


def spell_bounds(bounds: Mapping[str, Any]) -> str:
    """Write bounds the way a reader wants them.

    >>> spell_bounds({"ge": 0, "le": 1}), spell_bounds({})
    ('>= 0, <= 1', '')
    """
    return ", ".join(f"{_BOUNDS[key]} {value}" for key, value in bounds.items())


def described(docstring: str) -> dict[str, str]:
    """Return name -> description from the Parameters section of a numpy-style docstring.

    >>> described('''Do.
    ...
    ... Parameters
    ... ----------
    ... p, q
    ...     Shares in
    ...     [0, 1].
    ...
    ... Returns
    ... -------
    ... None
    ... ''')
    {'p': 'Shares in [0, 1].', 'q': 'Shares in [0, 1].'}
    """
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", docstring, re.S | re.M)
    if section is None:
        return {}
    found: dict[str, str] = {}
    for heading, body in re.findall(r"^(\S[^\n]*)\n((?:[ \t]+[^\n]*\n?|\n)*)", section[1], re.M):
        for name in heading.split(":")[0].split(","):
            found[name.strip().lstrip("*")] = " ".join(body.split())
    return found


def _shape(entry: Entry) -> dict[str, Any]:
    """Say what the entry is made of, where it is a composition that its defaults determine."""
    from taskloom.algebra import Chain

    nothing = {"composition": None, "grain": None, "reads": None, "experts": None}
    returned = typing.get_type_hints(entry.function).get("return")
    needs_options = any(info.is_required() for info in entry.schema.model_fields.values())
    if returned is not Chain or needs_options:
        return nothing
    made: Chain = entry.function()
    return {
        "composition": str(made),
        "grain": str(made.grain),
        "reads": made.reads,
        "experts": list(made.experts),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
