"""A Top-K sparse autoencoder: a model's hidden vectors as a few active units of many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.learn.mixtures.proxy import in_turn
from taskloom.progress import Progress, silent


def top_k(values: Tensor, k: int) -> Tensor:
    """Keep the k largest entries of every row and set the others, and what is negative, to 0.

    >>> top_k(torch.tensor([[0.3, -0.2, 0.9, 0.1]]), 2).tolist()
    [[0.30000001192092896, 0.0, 0.8999999761581421, 0.0]]
    """
    kept = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter(-1, kept.indices, kept.values.clamp(min=0))


class SparseAutoencoder(nn.Module):
    """Hidden vectors ``(n, D)`` -> codes ``(n, units)``, at most ``active`` of a row above 0 -> vectors.

    As in Gao et al., Scaling and evaluating sparse autoencoders, 2024: the centre is taken off before
    encoding and put back on, the decoder starts as the encoder's transpose, and its rows have length 1.
    There is no extra loss that revives units that never fire.
    """

    def __init__(self, width: int, *, units: int, active: int, seed: int) -> None:
        if not 1 <= active <= units:
            raise PlanError(
                f"sparse autoencoder: {active} active units, expected 1 to {units} (all of them)"
            )
        super().__init__()
        self.active = active
        random = torch.Generator().manual_seed(seed)
        rows = nn.functional.normalize(torch.randn(units, width, generator=random), dim=1)
        self.decoder = nn.Parameter(rows)
        self.encoder = nn.Parameter(rows.T.clone())
        self.threshold = nn.Parameter(torch.zeros(units))
        self.centre = nn.Parameter(torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def codes(self, hidden: Tensor) -> Tensor:
        """Return the codes ``(n, units)`` of hidden vectors ``(n, D)``."""
        return top_k((hidden / self.scale - self.centre) @ self.encoder + self.threshold, self.active)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the hidden vectors as their codes tell them, ``(n, D)``."""
        found: Tensor = (self.codes(hidden) @ self.decoder + self.centre) * self.scale
        return found

    def unexplained(self, hidden: Tensor) -> float:
        """Return the share of the vectors' variance that the codes lose, 0 to 1 and more."""
        with torch.inference_mode():
            lost = (self(hidden) - hidden).square().sum()
            return float(lost / (hidden - hidden.mean(0)).square().sum())


def train_autoencoder(
    hidden: NDArray[np.float32],
    *,
    units: int,
    active: int,
    steps: int = 300,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> SparseAutoencoder:
    """Train an autoencoder to tell hidden vectors ``(n, D)`` with little squared error.

    Parameters
    ----------
    units, active
        Size of the code, and how many of a vector's units may be above 0.
    steps, batch_size, learning_rate, seed
        Of Adam.

    Raises
    ------
    DataError, NumericalError, PlanError
        Fewer than two vectors, or all the same; NaN; sizes that do not go together.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(hidden, dtype=np.float32))
    if vectors.ndim != 2 or len(vectors) < 2:
        raise DataError(
            f"sparse autoencoder: expected two hidden vectors or more, found {tuple(hidden.shape)}"
        )
    if not torch.isfinite(vectors).all():
        raise NumericalError(
            "sparse autoencoder: a hidden vector holds NaN or infinity", hint="Leave it out"
        )
    centre = vectors.mean(0)
    scale = (vectors - centre).square().sum(1).mean().sqrt()
    if not scale > 0:
        raise DataError("sparse autoencoder: all hidden vectors are the same", hint="Give other texts")
    model = SparseAutoencoder(vectors.shape[1], units=units, active=active, seed=seed)
    with torch.no_grad():
        model.scale.copy_(scale)
        model.centre.copy_(centre / scale)
    adam = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step, picked in enumerate(in_turn(len(vectors), batch_size, steps, seed)):
        some = vectors[picked]
        loss = ((model(some) - some) / scale).square().sum(1).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        with torch.no_grad():
            model.decoder.copy_(nn.functional.normalize(model.decoder, dim=1))
        progress("train sparse autoencoder", step + 1, steps)
    if not torch.isfinite(model.decoder).all():
        raise NumericalError("sparse autoencoder: the training diverged", hint="Lower the learning rate")
    return model.eval()
