"""How an encoder directory says what it eats and how its tokens become one vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from taskloom.errors import CheckpointError

FILE = "taskloom_encoder.json"
_SENTENCE_TRANSFORMERS = Path("1_Pooling", "config.json")
Pooling = Literal["mean", "cls", "max"]


class EncoderSettings(BaseModel):
    """Contents of ``taskloom_encoder.json``.

    Attributes
    ----------
    modality
        What the inputs are.
    pooling
        ``mean`` over the tokens the attention mask keeps, the first token (``cls``), or ``max``.
    max_length
        Tokens per text, special tokens included; None leaves it to the caller.
    image_scale, image_mean, image_std
        A pixel p of channel c enters the model as (p * scale - mean[c]) / std[c]; one number in
        ``image_mean`` or ``image_std`` serves all channels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Literal["text", "image"] = "text"
    pooling: Pooling = "mean"
    max_length: int | None = Field(default=None, ge=2)
    image_scale: float = Field(default=1.0, gt=0)
    image_mean: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    image_std: tuple[float, ...] = Field(default=(1.0,), min_length=1)


def read_settings(directory: Path) -> EncoderSettings:
    """Read the settings of an encoder directory.

    Without ``taskloom_encoder.json`` the encoder is a text encoder; its pooling is what
    sentence-transformers' ``1_Pooling/config.json`` names, or else the mean.

    Raises
    ------
    CheckpointError
        A file that is not what it should be, or a pooling that is not known here.
    """
    own = directory / FILE
    if own.exists():
        try:
            return EncoderSettings.model_validate(_read(own))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(
                f"{own}: field {where!r} is {first['input']!r}, but {first['msg'].lower()}",
                hint="Mend the file or remove it to use the defaults",
            ) from None
    foreign = directory / _SENTENCE_TRANSFORMERS
    if foreign.exists():
        return EncoderSettings(pooling=_foreign_pooling(foreign))
    return EncoderSettings()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a JSON object, but it cannot be read: {error}",
            hint="Mend the file or remove it to use the defaults",
        ) from None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, found {type(found).__name__}",
            hint="Mend the file or remove it to use the defaults",
        )
    return found


def _foreign_pooling(path: Path) -> Pooling:
    known: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
    }
    chosen = [key for key, value in _read(path).items() if value is True and "mode" in key]
    if len(chosen) != 1 or chosen[0] not in known:
        raise CheckpointError(
            f"{path}: expected one of {', '.join(known)} to be true, found {chosen or 'none'}",
            hint=f"State the pooling in {FILE} beside it",
        )
    return known[chosen[0]]
