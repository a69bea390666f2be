"""LoRA: each linear map gets a trained update of low rank; the base stays as it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taskloom.errors import MissingExtra, PlanError
from taskloom.learn.adaptation import Adaptation, Extra
from taskloom.models.encoder import Encoder
from taskloom.models.quiet import quiet_transformers
from taskloom.registry import register
from taskloom.store.atomic import atomic_directory


@register("train", paper="Hu et al., ICLR 2022 (LoRA, arXiv 2106.09685), section 4.1", needs=("peft",))
def lora(
    encoder: Encoder,
    *,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_targets: tuple[str, ...] = (),
    seed: int = 0,
) -> Adaptation:
    """Train low-rank updates through peft; the result is an adapter directory.

    W becomes W + alpha / r * B A with A (r, in) random and B (out, r) zero. Default peak learning
    rate 1e-3.

    Parameters
    ----------
    encoder
        Its module gets the updates in place.
    lora_rank, lora_alpha
        r and alpha.
    lora_targets
        Names of modules that get an update; () means every linear map but the pooler's.
    seed
        Of A.

    Raises
    ------
    MissingExtra
        peft is not installed.
    PlanError
        No module has a name in ``lora_targets``; or the architecture's modules are not called what
        its stored weights are called, so that no other program could match the adapter to them.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise MissingExtra("peft", "adapters", purpose="training method 'lora'") from None
    options: dict[str, Any] = {"target_modules": list(lora_targets) or "all-linear"}
    if not lora_targets and any("pooler." in name for name in encoder.names):
        options["exclude_modules"] = r".*\bpooler\b.*"
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION, r=lora_rank, lora_alpha=lora_alpha, **options
    )
    with quiet_transformers(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        torch.manual_seed(seed)
        try:
            model = get_peft_model(encoder.module, config)
        except ValueError as error:
            raise PlanError(
                f"training: option 'lora_targets' is {list(lora_targets)}, "
                f"but peft finds no module to adapt: {' '.join(str(error).split())[:200]}"
            ) from error
    model.peft_config["default"].base_model_name_or_path = str(encoder.directory)
    _refuse_renamed(encoder, model)
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return LowRankTuning(encoder, moving, model)


@dataclass(frozen=True)
class LowRankTuning:
    """The encoder, its peft wrapper, and the factors A and B by peft's names."""

    encoder: Encoder
    parameters: dict[str, nn.Parameter]
    model: Any
    learning_rate: float = 1e-3

    def write(self, target: Path, extra: Extra) -> None:
        """Write an adapter directory that ``PeftModel.from_pretrained`` loads onto the base."""
        with (
            quiet_transformers(),
            warnings.catch_warnings(),
            atomic_directory(target, overwrite=True) as folder,
        ):
            warnings.simplefilter("ignore")
            self.model.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # peft's empty template
            extra(folder)


def _refuse_renamed(encoder: Encoder, model: Any) -> None:
    own = {inside for stored, inside in encoder.names.items() if stored != inside}
    for name in model.targeted_module_names:
        if f"{name}.weight" in own:
            raise PlanError(
                f"training: method 'lora' adapts the module {name!r}, which {encoder.directory} "
                f"stores under another name",
                hint="Use method 'full' for this architecture",
            )
