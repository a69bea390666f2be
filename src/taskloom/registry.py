"""One table of everything that has a name: merging methods, scores, metrics, data sources.

A function is registered where it is written. Its signature is the schema of its options: the plan,
the command line and the reference pages are generated from it, so none of them can go stale.

>>> @register("merge", paper="Nobody 1999, eq. 0")
... def halve(*, factor: float = 0.5) -> None:
...     '''Halve the mean task vector.'''
>>> entry = get("merge", "halve")
>>> entry.summary, entry.validate({"factor": 0.25})
('Halve the mean task vector.', {'factor': 0.25})
>>> entry.validate({"facter": 1})
Traceback (most recent call last):
...
taskloom.errors.PlanError: halve: unknown option 'facter': did you mean 'factor'? Options: factor
>>> _ = _TABLE.pop(("merge", "halve"))
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from taskloom.errors import PlanError, UnknownName, nearest

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=BaseModel)

#: family -> package whose modules register entries of that family when imported
ROOMS: dict[str, str] = {
    "merge": "taskloom.merging.methods",
    "step": "taskloom.merging.steps",
    "score": "taskloom.choose.scores",
    "selector": "taskloom.choose.data",
    "surrogate": "taskloom.choose.surrogates",
    "set": "taskloom.choose.sets",
    "predictor": "taskloom.choose.predictors",
    "train": "taskloom.learn.methods",
    "mixture": "taskloom.learn.mixtures",
    "metric": "taskloom.evaluation.metrics",
    "source": "taskloom.evaluation.sources",
    "statistic": "taskloom.learn.statistics",
    "module": "taskloom.learn.modules",
    "fit": "taskloom.learn.fits",
    "objective": "taskloom.learn.objectives",
    "loop": "taskloom.runs.loops",
}
#: what a reader calls a member of the family, for messages
KINDS: dict[str, str] = {
    "merge": "merging method",
    "step": "merging step",
    "score": "transferability score",
    "selector": "data selector",
    "surrogate": "surrogate",
    "set": "set chooser",
    "predictor": "transfer predictor",
    "train": "training method",
    "mixture": "mixture rule",
    "metric": "metric",
    "source": "data source",
    "statistic": "statistic",
    "module": "small module",
    "fit": "fitting method",
    "objective": "objective",
    "loop": "training loop",
}


@dataclass(frozen=True, eq=False)
class Entry:
    """One registered function and what a user needs to know before calling it.

    ``systems`` names the published systems (`taskloom.systems`) that the entry brings in full;
    ``partly`` maps a system that it brings in part to what is missing.
    """

    family: str
    name: str
    function: Callable[..., Any] = field(repr=False)
    paper: str = ""
    needs: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    partly: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @cached_property
    def schema(self) -> type[BaseModel]:
        """Pydantic model of the keyword-only options, made from the signature."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[name] = (hints[name], default)
        config = ConfigDict(
            extra="forbid", arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False
        )
        return create_model(self.name, __config__=config, **fields)

    def validate(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check ``options`` against the signature; return them with types coerced.

        Raises
        ------
        PlanError
            An unknown option (with the nearest right one), a value out of range, a number that is not
            finite, or yes or no where a number is needed.
        """
        model = checked(self.schema, options, who=self.name)
        return {key: getattr(model, key) for key in options}


def checked(schema: type[S], options: Mapping[str, Any], *, who: str) -> S:
    """Make ``schema`` of options given by name; ``who`` takes them, for messages.

    Raises
    ------
    PlanError
        An unknown option (with the nearest right one), a value that ``schema`` refuses, or yes or no
        where a number is needed.
    """
    known = schema.model_fields
    for key in options:
        if key not in known:
            guess = nearest(key, known)
            did = f"did you mean {guess!r}? " if guess else ""
            listed = ", ".join(known) or "none"
            raise PlanError(f"{who}: unknown option {key!r}: {did}Options: {listed}")
        if isinstance(options[key], bool) and not _takes_bool(known[key].annotation):
            raise PlanError(f"{who}: option {key!r} is {options[key]}, but it is no switch")
    try:
        return schema(**options)
    except ValidationError as error:
        found = [(*_place(each["loc"], options), each["msg"]) for each in error.errors()]
        path, value, message = max(found, key=lambda each: len(each[0]))  # the first of equals
        where = ".".join(path)
        raise PlanError(f"{who}: option {where!r} is {value!r}, but {message.lower()}") from None


def _place(loc: tuple[int | str, ...], options: Mapping[str, Any]) -> tuple[list[str], Any]:
    """Return where in the options an error lies, and what is there; names of types are left out."""
    path, value = [str(loc[0])], options.get(str(loc[0]))
    for part in loc[1:]:
        inside = isinstance(value, Mapping | list | tuple)
        with contextlib.suppress(KeyError, IndexError, TypeError):
            value = value[part] if inside else value  # type: ignore[index]
            path += [str(part)] if inside else []
    return path, value


def _takes_bool(hint: Any) -> bool:
    return hint in (bool, Any) or any(_takes_bool(part) for part in typing.get_args(hint))


_TABLE: dict[tuple[str, str], Entry] = {}


def register(
    family: str,
    *,
    name: str | None = None,
    paper: str = "",
    needs: tuple[str, ...] = (),
    systems: tuple[str, ...] = (),
    partly: Mapping[str, str] | None = None,
) -> Callable[[F], F]:
    """Register the decorated function under its own name (or ``name``) in ``family``."""

    def decorate(function: F) -> F:
        key = (family, name or function.__name__)
        if key in _TABLE and _TABLE[key].function.__module__ != function.__module__:
            raise ValueError(f"{KINDS[family]} {key[1]!r} is registered twice")
        _TABLE[key] = Entry(family, key[1], function, paper, needs, systems, dict(partly or {}))
        return function

    return decorate


@lru_cache
def _discover(family: str) -> None:
    try:
        package = importlib.import_module(ROOMS[family])
    except ModuleNotFoundError as error:
        if error.name and ROOMS[family].startswith(error.name):
            return
        raise
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=f"taskloom.{family}"):
        point.load()


def entries(family: str | None = None) -> list[Entry]:
    """Everything registered, sorted by family and name; imports the rooms that hold it."""
    for each in [family] if family else ROOMS:
        _discover(each)
    found = [e for e in _TABLE.values() if family in (None, e.family)]
    return sorted(found, key=lambda e: (list(ROOMS).index(e.family), e.name))


def _look_into(family: str, name: str) -> None:
    """Import the module of that name, or of its first words (``dare`` of ``dare_ties``), if any.

    That is where most names are; importing a whole room takes longer than many a merge.
    """
    words = name.split("_")
    for count in range(len(words), 0, -1):
        module = f"{ROOMS[family]}.{'_'.join(words[:count])}"
        try:
            found = name.isidentifier() and find_spec(module) is not None
        except ModuleNotFoundError as error:
            if error.name and ROOMS[family].startswith(error.name):
                return
            raise
        if found:
            importlib.import_module(module)
            return


def get(family: str, name: str) -> Entry:
    """Return the entry, or raise `UnknownName` with the nearest registered name."""
    if (family, name) not in _TABLE:
        _look_into(family, name)
    if (family, name) not in _TABLE:
        _discover(family)
    entry = _TABLE.get((family, name))
    if entry is None:
        raise UnknownName(KINDS[family], name, [e.name for e in entries(family)])
    return entry
