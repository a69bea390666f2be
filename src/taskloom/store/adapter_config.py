"""A LoRA adapter's configuration, and what of it is understood."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from taskloom.errors import CheckpointError
from taskloom.store.access import inside
from taskloom.store.header import strict_json
from taskloom.store.patterns import compiled

T = TypeVar("T")

CONFIG = "adapter_config.json"

#: settings that say nothing about what the merged weights are, once the factors are stored
_HARMLESS = frozenset(
    {
        "alpha_pattern",
        "arrow_config",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_LARGEST = sys.float_info.max
#: initialisations that also change the base's weights, so that base + B A is not what was trained
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LoraConfig:
    """What of ``adapter_config.json`` decides the weights.

    Attributes
    ----------
    rank, alpha
        Defaults for every module; the patterns override them for the modules they match.
    rank_pattern, alpha_pattern
        Regular expression -> value, matched against the end of a module's name, whole parts only;
        the first that matches counts.
    rslora
        Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732) instead of alpha / rank
        (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    transposed
        Weights are stored (in, out), as in GPT-2 (``fan_in_fan_out``).
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    transposed: bool

    def rank_of(self, module: str) -> int:
        """Return the rank the configuration gives to a module."""
        return _by_pattern(self.path, self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor before B A."""
        alpha = _by_pattern(self.path, self.alpha_pattern, module, self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def read_config(folder: Path) -> LoraConfig:
    """Read ``adapter_config.json`` and refuse, by name, what is not plain LoRA.

    Raises
    ------
    CheckpointError
        Missing or malformed, another kind of adapter, or a feature that is not supported.
    """
    path = inside(folder, CONFIG, named_by=str(folder))
    table = _load(path)
    _refuse_unsupported(path, table)
    return LoraConfig(
        path,
        rank=int(_number(path, "r", table.get("r", 8), whole=True)),
        alpha=_number(path, "lora_alpha", table.get("lora_alpha", 8)),
        rank_pattern={
            key: int(_number(path, f"rank_pattern[{key!r}]", value, whole=True))
            for key, value in _pattern(path, table, "rank_pattern").items()
        },
        alpha_pattern={
            key: _number(path, f"alpha_pattern[{key!r}]", value)
            for key, value in _pattern(path, table, "alpha_pattern").items()
        },
        rslora=bool(table.get("use_rslora", False)),
        transposed=bool(table.get("fan_in_fan_out", False)),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        table = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror or error}", hint="Name an adapter's directory"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: expected JSON in UTF-8, but {error}", hint="Get the adapter again"
        ) from error
    if not isinstance(table, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, found {type(table).__name__}",
            hint="Get the adapter again",
        )
    return table


def _refuse_unsupported(path: Path, table: Mapping[str, Any]) -> None:
    kind = table.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: expected an adapter of type LORA, found {kind!r}",
            hint="Merge it into its base with peft and use the result",
        )
    start = table.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{path}: init_lora_weights {start!r} changes the base's weights, which are not stored",
            hint="Save the adapter with peft's path_initial_model_for_weight_conversion",
        )
    for key, value in table.items():
        if value and key not in _HARMLESS:
            raise CheckpointError(
                f"{path}: the feature {key!r} ({str(value)[:60]}) is not supported",
                hint="Merge it into its base with peft and use the result",
            )


def _pattern(path: Path, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = table.get(key) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path}: {key}: expected patterns with values, found {type(found).__name__}",
            hint="Mend the file",
        )
    return found


def _number(path: Path, what: str, value: object, *, whole: bool = False) -> float:
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not good or not abs(value) <= _LARGEST or (whole and value < 1):  # type: ignore[arg-type, operator]
        wanted = "a positive integer" if whole else "a finite number"
        raise CheckpointError(
            f"{path}: {what}: expected {wanted}, found {value!r:.80}", hint="Mend the file"
        )
    return value  # type: ignore[return-value]


def _by_pattern(path: Path, patterns: Mapping[str, T], module: str, default: T) -> T:
    for pattern, value in patterns.items():
        try:
            if compiled(pattern).match(module):
                return value
        except ValueError as error:
            raise CheckpointError(
                f"{path}: the pattern {pattern!r:.80}: {error}",
                hint="Write the modules' names, with few repetitions and none within another",
            ) from error
    return default
