"""What a mergekit YAML may say: its keys, as frozen models that refuse what they do not know.

The keys and their meanings are those of mergekit 0.1.5. It drops unknown keys in silence; here they
are errors that name the nearest right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from taskloom.evaluation.strict import Strict

DTYPES = ("float64", "float32", "bfloat16", "float16")
Scalar = bool | int | float | str
#: tensor parameters by name, as written; `settings.check_settings` holds them against the method
Settings = dict[str, Any]


class ModelName(Strict):
    """A model: ``path[@revision][+adapter[@revision]]``, or the same as a mapping."""

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None
    override_architecture: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _parse_name(value)
        if isinstance(value, dict) and "model" in value:
            return _parse_mapping(value)
        return value

    def __str__(self) -> str:
        lora = f"+{_at(self.lora, self.lora_revision)}" if self.lora else ""
        return _at(self.path, self.revision) + lora


def _at(path: str, revision: str | None) -> str:
    return f"{path}@{revision}" if revision else path


def _parse_name(text: str) -> dict[str, Any]:
    parts = text.split("+")
    if not text or len(parts) > 2 or any(part.count("@") > 1 or not part for part in parts):
        raise ValueError(f"{text!r} is not path[@revision][+adapter[@revision]]")
    path, _, revision = parts[0].partition("@")
    found: dict[str, Any] = {"path": path, "revision": revision or None}
    if len(parts) == 2:
        lora, _, revision = parts[1].partition("@")
        found |= {"lora": lora, "lora_revision": revision or None}
    return found


def _parse_mapping(value: dict[str, Any]) -> dict[str, Any]:
    """``{model: path or {path, revision}, lora: ..., override_architecture: ...}``."""
    unknown = set(value) - {"model", "lora", "override_architecture"}
    if unknown:
        listed = ", ".join(sorted(unknown))
        raise ValueError(f"unknown key {listed}: Keys: model, lora, override_architecture")
    found: dict[str, Any] = {"override_architecture": value.get("override_architecture")}
    for key, names in (("model", ("path", "revision")), ("lora", ("lora", "lora_revision"))):
        part = value.get(key)
        if isinstance(part, str):
            part = _parse_name(part)
        if isinstance(part, dict):
            found |= {names[0]: part.get("path"), names[1]: part.get("revision")}
    return found


class InputModel(Strict):
    """One model of ``models:``."""

    model: ModelName
    parameters: Settings | None = None


class SliceSource(Strict):
    """The layers of one model that take part in a slice: first, and one past the last."""

    model: ModelName
    layer_range: tuple[int, int]
    parameters: Settings | None = None

    @field_validator("layer_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(f"layer_range [{value[0]}, {value[1]}] holds no layers")
        return value


class OutputSlice(Strict):
    """Layers of the output, merged from equally many layers of every source."""

    sources: tuple[SliceSource, ...] = Field(min_length=1)
    base_model: ModelName | None = None
    residual_weight: float | None = None
    parameters: Settings | None = None

    @field_validator("residual_weight")
    @classmethod
    def _idle(cls, value: float | None) -> float | None:
        if value is not None:
            raise ValueError("residual_weight has no effect in mergekit; remove it")
        return value

    @model_validator(mode="after")
    def _equal_lengths(self) -> OutputSlice:
        lengths = {s.layer_range[1] - s.layer_range[0] for s in self.sources}
        if len(lengths) > 1:
            found = ", ".join(f"{s.model}: {list(s.layer_range)}" for s in self.sources)
            raise ValueError(f"the sources of a slice need equally many layers, but have {found}")
        return self

    @property
    def layers(self) -> int:
        """How many layers of the output it makes."""
        first, last = self.sources[0].layer_range
        return last - first


class Module(Strict):
    """One part of an architecture of several parts."""

    slices: tuple[OutputSlice, ...] | None = None
    models: tuple[InputModel, ...] | None = None
    parameters: Settings | None = None


class TokenRow(Strict):
    """Where the embedding of one token comes from."""

    source: Any = None
    force: bool = False


class Tokenizer(Strict):
    """The ``tokenizer:`` section."""

    source: str = "union"
    tokens: dict[str, TokenRow] | None = None
    pad_to_multiple_of: int | None = Field(None, ge=1)


class MergeConfiguration(Strict):
    """One document: one model to make."""

    name: str | None = Field(None, description="Of an intermediate merge; later documents use it.")
    merge_method: str
    models: tuple[InputModel, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    modules: dict[str, Module] | None = None
    base_model: ModelName | None = None
    parameters: Settings | None = None
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    out_dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    tokenizer_source: str | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None

    @field_validator("dtype", "out_dtype", mode="before")
    @classmethod
    def _plain_dtype(cls, value: Any) -> Any:
        return value.removeprefix("torch.") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> MergeConfiguration:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"exactly one of models, slices, modules is needed, found {found}")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("tokenizer_source and tokenizer cannot both be given; keep tokenizer")
        return self

    @property
    def referenced(self) -> tuple[ModelName, ...]:
        """Every model that is named, once, the base first, then in the order of the file."""
        return tuple(dict.fromkeys(self._names()))

    def _names(self) -> Iterator[ModelName]:
        if self.base_model:
            yield self.base_model
        for each in self.models or ():
            yield each.model
        for part in self.slices or ():
            if part.base_model:
                yield part.base_model
            for source in part.sources:
                yield source.model
