"""A small language model of bytes, trained in seconds: stands in for the large one.

Of every byte it sees the ``window`` bytes before it (Bengio et al., A neural probabilistic language
model, 2003: embeddings side by side, one hidden layer). It needs no tokenizer, and no weights from
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.progress import Progress, silent

#: of the options of rules that train proxies
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]

_START = 256  # stands for what is before the first byte


@dataclass(frozen=True)
class ProxyOptions:
    """Size and training of a proxy.

    Attributes
    ----------
    embedding, window, hidden
        Numbers for each byte, bytes that are seen, and width of the hidden layer.
    max_bytes
        Bytes of each text that count.
    steps, batch_size, learning_rate
        Of AdamW; the rate falls linearly to 0.
    seed
        Of the new weights and the order of texts.
    """

    embedding: int = 24
    window: int = 12
    hidden: int = 192
    max_bytes: int = 192
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes and numbers of steps that make no model."""
        for name in ("embedding", "window", "hidden", "max_bytes", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise PlanError(f"proxy: {name} is {getattr(self, name)}, expected 1 or more")
        if not 0 < self.learning_rate < 1:
            raise PlanError(f"proxy: learning_rate is {self.learning_rate}, expected it in (0, 1)")


@dataclass(frozen=True)
class Bytes:
    """Some texts as bytes: contexts ``(B, T, window)``, targets ``(B, T)``, and 1 where they count."""

    contexts: Tensor
    targets: Tensor
    mask: Tensor


class ByteModel(nn.Module):
    """Contexts ``(..., window)`` of byte numbers -> logits ``(..., 256)`` of the byte that follows."""

    def __init__(self, options: ProxyOptions) -> None:
        super().__init__()
        self.options = options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.embedding = nn.Embedding(_START + 1, options.embedding)
            self.inner = nn.Linear(options.window * options.embedding, options.hidden)
            self.outer = nn.Linear(options.hidden, _START)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return the logits."""
        seen = self.embedding(contexts).flatten(-2)
        logits: Tensor = self.outer(functional.gelu(self.inner(seen)))
        return logits


def to_bytes(texts: Sequence[str], options: ProxyOptions) -> Bytes:
    """Turn texts into bytes, cut to ``options.max_bytes`` and padded to the longest."""
    data = [text.encode("utf-8", "surrogatepass")[: options.max_bytes] for text in texts]
    longest = max([1, *(len(each) for each in data)])
    padded = np.full((len(data), options.window + longest), _START, dtype=np.int64)
    mask = np.zeros((len(data), longest), dtype=np.float32)
    for row, each in enumerate(data):
        padded[row, options.window : options.window + len(each)] = np.frombuffer(each, dtype=np.uint8)
        mask[row, : len(each)] = 1
    numbers = torch.from_numpy(padded)
    contexts = numbers.unfold(1, options.window, 1)[:, :longest]
    targets = numbers[:, options.window :].clamp(max=_START - 1)
    return Bytes(contexts, targets, torch.from_numpy(mask))


def byte_losses(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of every byte in nats, 0 where it does not count; shapes as `Bytes`."""
    losses = functional.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")
    return losses * mask


def in_turn(count: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the numbers of each step's texts: all in a random order, then all in another."""
    random = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=random)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def optimiser(
    model: nn.Module, options: ProxyOptions
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and the schedule of its rate."""
    adam = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / options.steps)
    return adam, falling


def train_proxy(
    texts: Sequence[str],
    options: ProxyOptions,
    *,
    start: ByteModel | None = None,
    progress: Progress = silent,
    label: str = "train proxy",
) -> ByteModel:
    """Train a proxy on texts, every byte of a batch with the same weight.

    Parameters
    ----------
    start
        Model to go on from, left as it is; else new weights.

    Raises
    ------
    DataError
        No text holds a byte.
    NumericalError
        The loss is not finite.
    """
    if not any(texts):
        raise DataError("proxy: expected texts to train on, found none", hint="Check the text column")
    model = ByteModel(options)
    if start is not None:
        model.load_state_dict(start.state_dict())
    adam, falling = optimiser(model, options)
    for step, picked in enumerate(in_turn(len(texts), options.batch_size, options.steps, options.seed)):
        batch = to_bytes([texts[number] for number in picked.tolist()], options)
        losses = byte_losses(model(batch.contexts), batch.targets, batch.mask)
        loss = losses.sum() / batch.mask.sum().clamp(min=1)
        if not torch.isfinite(loss):
            raise NumericalError(
                f"proxy: the loss of step {step} is not finite", hint="Lower the learning rate"
            )
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        falling.step()
        progress(label, step + 1, options.steps)
    return model.eval()


def mean_loss(model: ByteModel, texts: Sequence[str], *, batch_size: int = 128) -> float:
    """Return the model's mean loss over all bytes of some texts, in nats per byte.

    Raises
    ------
    DataError
        No text holds a byte.
    """
    total, count = 0.0, 0.0
    with torch.inference_mode():
        for at in range(0, len(texts), batch_size):
            batch = to_bytes(texts[at : at + batch_size], model.options)
            losses = byte_losses(model(batch.contexts), batch.targets, batch.mask)
            total += float(losses.double().sum())
            count += float(batch.mask.sum())
    if not count:
        raise DataError("proxy: expected texts to measure the loss on, found none")
    return total / count
