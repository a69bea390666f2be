"""LoRA on a language model: answers to prompts are learned token by token."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taskloom.errors import DataError, MissingExtra, NumericalError
from taskloom.learn.loop import schedule
from taskloom.models.encoder import Precision, autocast
from taskloom.models.language import IGNORED, Exchange, LanguageModel
from taskloom.models.quiet import quiet_transformers
from taskloom.progress import Progress, silent
from taskloom.store.atomic import atomic_directory


class TokenOptions(BaseModel):
    """How an adapter is trained on exchanges.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps, and exchanges in each; passes are shuffled anew.
    learning_rate, warmup
        Peak of AdamW, without weight decay, reached after that share of the steps; then it falls to 0.
    rank, alpha
        Of every linear map but the one that gives the tokens' scores: W + alpha / rank * B A.
    max_grad_norm
        Gradients are scaled down to it.
    precision
        ``"bf16"`` runs matrix products under autocast.
    seed
        Of A and of the order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Precision = "fp32"
    seed: int = 0


@dataclass(frozen=True)
class TunedAdapter:
    """A trained adapter: its directory, the loss of every step in nats per token, seconds it took."""

    directory: Path
    losses: tuple[float, ...]
    seconds: float


def tune_adapter(
    model: LanguageModel,
    exchanges: Sequence[Exchange],
    output: str | Path,
    options: TokenOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> TunedAdapter:
    """Train a LoRA adapter (Hu et al., 2021, section 4.1) to give answers; the prompts are not learned.

    The loss is the mean cross-entropy over the tokens of a batch's answers, end token included.

    Parameters
    ----------
    model
        Has the weights that the adapter belongs to; it has them again when this returns or fails.
    exchanges
        Prompts and answers.
    output
        Directory for the adapter, in peft's format; it appears whole or not at all.
    options
        The defaults if None.
    overwrite
        Replace an existing output.

    Raises
    ------
    DataError
        No exchanges, or an empty prompt or answer.
    MissingExtra
        peft is not installed.
    NumericalError
        The loss or its gradient is NaN or infinite; the message names the step.
    OutputError
        The output exists or cannot be written.
    """
    how = options or TokenOptions()
    if not exchanges:
        raise DataError("training an adapter: no exchanges", hint="Give prompts and answers")
    begun = time.perf_counter()
    with atomic_directory(output, overwrite=overwrite) as folder:
        adapted = _adapted(model, how)
        try:
            losses = _train(model, adapted, exchanges, how, progress)
            with quiet_transformers(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                adapted.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # peft's empty template
        finally:
            adapted.unload()
            model.module.requires_grad_(True)
            model.module.eval()
            vars(model.module).pop("peft_config", None)
    return TunedAdapter(Path(output), tuple(losses), time.perf_counter() - begun)


def answer_loss(model: LanguageModel, exchanges: Sequence[Exchange]) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens, in nats; differentiable."""
    logits, wanted = model.scored(exchanges)
    counted = wanted != IGNORED
    return cross_entropy(logits[counted].float(), wanted[counted])


def _adapted(model: LanguageModel, how: TokenOptions) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise MissingExtra("peft", "adapters", purpose="training an adapter") from None
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=how.rank, lora_alpha=how.alpha, target_modules="all-linear"
    )
    with quiet_transformers(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        torch.manual_seed(how.seed)
        adapted: Any = get_peft_model(model.module, config)
    adapted.peft_config["default"].base_model_name_or_path = str(model.directory)
    return adapted


def _train(
    model: LanguageModel,
    adapted: nn.Module,
    exchanges: Sequence[Exchange],
    how: TokenOptions,
    progress: Progress,
) -> list[float]:
    moving = [p for p in adapted.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(moving, lr=how.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for step in range(how.steps):
        for group in adam.param_groups:
            group["lr"] = how.learning_rate * schedule(step, how.steps, how.warmup)
        chosen = [exchanges[i] for i in _places(len(exchanges), how, step)]
        adam.zero_grad(set_to_none=True)
        with autocast(how.precision):
            loss = answer_loss(model, chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(moving, how.max_grad_norm))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]) or not math.isfinite(norm):
            raise NumericalError(
                f"expected a finite loss in step {step + 1} of {how.steps}, "
                f"found loss {losses[-1]} with gradient norm {norm}",
                hint="Lower the learning rate, or use precision fp32",
            )
        adam.step()
        progress("train adapter", step + 1, how.steps)
    return losses


def _places(count: int, how: TokenOptions, step: int) -> list[int]:
    """Return which exchanges make a step: the next ones of passes that are each shuffled anew."""
    found: list[int] = []
    for place in range(step * how.batch_size, (step + 1) * how.batch_size):
        again, at = divmod(place, count)
        found.append(int(np.random.default_rng([how.seed, again]).permutation(count)[at]))
    return found
