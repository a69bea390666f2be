"""How an expert is trained: everything that decides the result, and how often state is saved."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from taskloom.registry import checked


class TrainOptions(BaseModel):
    """Options of `taskloom.learn.train.train_expert`.

    Attributes
    ----------
    method
        Registered name: ``full`` or ``lora``.
    steps
        Optimiser steps; None derives them from ``epochs``.
    epochs
        Passes over the training examples; a fraction is allowed.
    batch_size
        Examples per step.
    learning_rate
        Peak of the schedule; None takes the method's own default.
    weight_decay
        Of AdamW, on matrices only.
    warmup
        Share of the steps over which the rate rises from 0; after them it falls linearly to 0.
    max_grad_norm
        Gradients are scaled down to this Euclidean norm; infinity leaves them as they are.
    precision
        ``bf16`` runs matrix products under autocast; weights and optimiser stay float32.
    seed
        Of the order of examples, of dropout and of new weights.
    evaluate_every
        Steps between validations; None validates four times, the last step always included.
    patience
        Stop after so many validations without a better one; None never stops early.
    max_length
        Tokens per text; None takes the encoder's own.
    save_every
        Steps between saved states; does not change the result.
    train_head
        Train the head along with the encoder. Off, it stays as it was fitted.
    freeze
        Stored weight names starting with one of these stay as they are, e.g. ``embeddings.``
        (method ``full``).
    lora_rank, lora_alpha
        Rank r of the update and its scale alpha / r (method ``lora``).
    lora_targets
        Module names that get an update; () means every linear map.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = "full"
    steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0)
    evaluate_every: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=2)
    save_every: int = Field(default=50, ge=1)
    train_head: bool = False
    freeze: tuple[str, ...] = ()
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    lora_targets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, options: dict[str, Any]) -> TrainOptions:
        """Validate options of a plan or command line.

        Raises
        ------
        PlanError
            As `taskloom.registry.checked`.

        Examples
        --------
        >>> TrainOptions.parse({"stepps": 3})
        Traceback (most recent call last):
        ...
        taskloom.errors.PlanError: training: unknown option 'stepps': did you mean 'steps'? ...
        """
        return checked(cls, options, who="training")

    def result_key(self) -> dict[str, Any]:
        """Return the options that the result depends on, as plain data."""
        return self.model_dump(mode="json", exclude={"save_every"})
