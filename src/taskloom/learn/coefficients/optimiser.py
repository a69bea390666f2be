"""Adam, AdamW and SGD on a table of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["adam", "adamw", "sgd"]


@dataclass
class Optimiser:
    """Moves a table against its gradient; the rules are those of `torch.optim`.

    A table is small, and importing torch's optimisers takes seconds.

    Attributes
    ----------
    kind
        ``"adam"`` (Kingma and Ba, ICLR 2015, algorithm 1), ``"adamw"`` (Loshchilov and Hutter, ICLR
        2019, algorithm 2) or ``"sgd"``.
    weight_decay
        Added to the gradient times the numbers; ``"adamw"`` shrinks the numbers instead.
    betas, eps
        Of Adam.
    """

    kind: Kind
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    _steps: int = 0
    _means: dict[str, Tensor] = field(default_factory=dict)

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """Return how many steps Adam has made, and copies of its moments."""
        return self._steps, {name: tensor.clone() for name, tensor in self._means.items()}

    def resume(self, steps: int, moments: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._steps, self._means = steps, dict(moments)

    def step(self, table: Tensor, gradient: Tensor, rate: float) -> None:
        """Change ``table`` in place."""
        with torch.no_grad():
            if self.kind == "adamw":
                table *= 1 - rate * self.weight_decay
            elif self.weight_decay:
                gradient = gradient + self.weight_decay * table
            table -= rate * (gradient if self.kind == "sgd" else self._adam(gradient))

    def _adam(self, gradient: Tensor) -> Tensor:
        self._steps += 1
        first, second = self.betas
        mean = self._means.setdefault("mean", torch.zeros_like(gradient))
        square = self._means.setdefault("square", torch.zeros_like(gradient))
        mean += (1 - first) * (gradient - mean)
        square += (1 - second) * (gradient.square() - square)
        spread = (square / (1 - second**self._steps)).sqrt() + self.eps
        return mean / (1 - first**self._steps) / spread
