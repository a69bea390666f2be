"""Values of parameters for one tensor: precedence, name filters and gradients over layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from taskloom.errors import PlanError, nearest

Kind = Literal["number", "switch", "count"]
#: of the whole merge; of every input; of every input but the base
Reach = Literal["merge", "input", "expert"]
_CONDITION = {"value", "filter"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a merging method: its kind, to whom it belongs, its default and range."""

    name: str
    kind: Kind = "number"
    reach: Reach = "merge"
    default: Any = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf

    def convert(self, value: Any, where: str) -> Any:
        """Return the value as its kind, or say what is wrong with it.

        Numbers may be written as text (YAML reads ``1e-5`` as such).
        """
        if self.kind == "switch":
            if isinstance(value, bool):
                return value
            if value in (0, 1):
                return bool(value)
            raise PlanError(f"{where}: {self.name} is {value!r}, but true or false is needed")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise PlanError(f"{where}: {self.name} is {value!r}, but a number is needed") from None
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise PlanError(f"{where}: {self.name} is {value!r}, but {self._range()} is needed")
        if self.kind == "count":
            if number != int(number):
                raise PlanError(f"{where}: {self.name} is {value!r}, but a whole number is needed")
            return int(number)
        return number

    def _range(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        if math.isinf(self.high):
            return f"a number of at least {self.low:g}"
        return f"a number from {self.low:g} to {self.high:g}"


def check_settings(
    settings: Mapping[str, Any] | None,
    parameters: Mapping[str, Parameter],
    others: Mapping[str, Sequence[str]],
    *,
    where: str,
    method: str,
    of_one_model: bool,
) -> None:
    """Hold written settings against a method: names, places, shapes, kinds and ranges.

    Parameters
    ----------
    settings
        As written under ``parameters:``.
    parameters
        The method's, by name.
    others
        Parameters of other methods -> the methods, for the message.
    where
        Place in the file, for messages.
    method
        The method's name.
    of_one_model
        Whether they stand under a model or a slice's source.

    Raises
    ------
    PlanError
        A name that is unknown, of another method, or of the whole merge but written under a model;
        a value of the wrong kind or out of range.
    """
    for name, setting in (settings or {}).items():
        parameter = parameters.get(name)
        if parameter is None:
            raise PlanError(f"{where}: {_unknown(name, parameters, others, method)}")
        if of_one_model and parameter.reach == "merge":
            raise PlanError(
                f"{where}: {name} is one value for the whole merge and has no effect under a model",
                hint="Move it to the parameters of the slice or of the file",
            )
        for value in _written(setting, f"{where}: {name}"):
            parameter.convert(value, where)


def _unknown(
    name: str, parameters: Mapping[str, Parameter], others: Mapping[str, Sequence[str]], method: str
) -> str:
    listed = ", ".join(parameters) or "none"
    if name in others:
        return (
            f"{name} is a parameter of {', '.join(others[name])}, but not of {method}; mergekit would "
            f"ignore it. Parameters of {method}: {listed}"
        )
    guess = nearest(name, parameters)
    did = f"did you mean {guess!r}? " if guess else ""
    return f"unknown parameter {name!r}: {did}Parameters of {method}: {listed}"


def _written(setting: Any, where: str) -> Iterable[Any]:
    """Every scalar in a setting; its shape is checked on the way."""
    if isinstance(setting, Mapping):
        if unknown := set(setting) - _CONDITION:
            raise PlanError(f"{where}: unknown key {sorted(unknown)[0]!r}: Keys: value, filter")
        if "value" not in setting:
            raise PlanError(f"{where}: a filter needs a value")
        known = setting.get("filter")
        if known is not None and not isinstance(known, str):
            raise PlanError(f"{where}: filter is {known!r}, but part of a tensor's name is needed")
        if isinstance(setting["value"], Mapping) or (
            isinstance(setting["value"], list) and any(isinstance(v, Mapping) for v in setting["value"])
        ):
            raise PlanError(f"{where}: a filter's value is a scalar or a list of scalars")
        yield from _written(setting["value"], where)
    elif isinstance(setting, list):
        if not setting:
            raise PlanError(f"{where}: the list is empty")
        if len({isinstance(part, Mapping) for part in setting}) > 1:
            raise PlanError(f"{where}: a list holds either numbers or filters, not both")
        for part in setting:
            if isinstance(part, list):
                raise PlanError(f"{where}: a list within a list has no meaning")
            yield from _written(part, where)
    else:
        yield setting


def resolve(
    parameter: Parameter,
    scopes: Iterable[Mapping[str, Any] | None],
    *,
    tensor: str,
    t: float,
    where: str,
) -> Any:
    """Return a parameter's value for one tensor.

    Parameters
    ----------
    parameter
        Which one.
    scopes
        Settings from the nearest to the farthest: source, slice, module, file.
    tensor
        Name of the tensor, for filters.
    t
        Place of the layer in its slice, 0 to 1, for gradients; 0 outside layers.
    where
        For the message.

    Raises
    ------
    PlanError
        A required parameter that no scope gives, or a value that does not fit.
    """
    for scope in scopes:
        if scope is not None and parameter.name in scope:
            value = evaluate(scope[parameter.name], parameter, tensor, t, where)
            if value is not None:
                return value
    if parameter.required:
        raise PlanError(
            f"{where}: {parameter.name} is not given for tensor {tensor!r}",
            hint=f"Give {parameter.name}; a list of filters needs a last one without a filter",
        )
    return parameter.default


def evaluate(setting: Any, parameter: Parameter, tensor: str, t: float, where: str) -> Any:
    """Return the value of one setting, None if no filter matches.

    Numbers of a list lie at equal distances over the layers and are interpolated; switches step.

    >>> evaluate([0, 1, 4], Parameter("weight"), "w", 0.75, "")
    2.5
    >>> evaluate([{"filter": "mlp", "value": 1}, {"value": 2}], Parameter("weight"), "a.mlp.b", 0, "")
    1.0
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return parameter.convert(setting, where)
    if isinstance(setting[0], Mapping):
        for condition in setting:
            part = condition.get("filter")
            if part is None or part == "*" or part in tensor:
                return evaluate(condition["value"], parameter, tensor, t, where)
        return None
    values = [parameter.convert(value, where) for value in setting]
    place = t * (len(values) - 1)
    first = int(place)
    if parameter.kind == "switch":
        return values[first]
    share = place - first
    mixed = (1 - share) * values[first] + share * values[min(first + 1, len(values) - 1)]
    return parameter.convert(mixed, where)
