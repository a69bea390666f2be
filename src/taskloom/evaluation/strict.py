"""Pydantic models that refuse unknown keys with the nearest right one, and one-line messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from taskloom.errors import PlanError, nearest

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model whose unknown keys are errors that name the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    guess = nearest(str(key), cls.model_fields)
                    did = f"did you mean {guess!r}? " if guess else ""
                    raise ValueError(f"unknown key {key!r}: {did}Keys: {', '.join(cls.model_fields)}")
        return value


def parse(model: type[M], value: object, *, where: str) -> M:
    """Validate ``value`` as ``model``; the first problem becomes one sentence.

    Parameters
    ----------
    where
        What is being read, for the message, e.g. ``"task annotation spam.yaml"``.

    Raises
    ------
    PlanError
        ``value`` is not a mapping, or a key or value is wrong; names the place in it.

    Examples
    --------
    >>> class Point(Strict):
    ...     abscissa: int
    >>> parse(Point, {"absissa": 1}, where="point")
    Traceback (most recent call last):
    ...
    taskloom.errors.PlanError: point: unknown key 'absissa': did you mean 'abscissa'? Keys: abscissa
    """
    if not isinstance(value, Mapping):
        raise PlanError(f"{where}: expected keys and values, found {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
        raise PlanError(f"{where}: {f'{place}: ' if place else ''}{said}{found}") from None
