"""The gradient of a proxy's loss on every text, projected at random to a few hundred numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from taskloom.errors import PlanError
from taskloom.learn.mixtures.proxy import ByteModel, byte_losses, to_bytes


class Gradients:
    """Texts -> projected gradients ``(N, width)`` of the mean loss of each text's bytes.

    Every parameter is added, with a random sign, to ``spread`` random places of the ``width`` numbers,
    all divided by the root of ``spread`` (Kane & Nelson, Sparser Johnson-Lindenstrauss transforms,
    2014). Inner products are kept on average, with a deviation of about ``1 / sqrt(width)`` of the
    lengths' product. LESS and G-Vendi project by a dense matrix of signs, which has the same two
    properties and costs ``width / spread`` times as much.

    Parameters
    ----------
    model
        Its gradients are taken at its weights, of all parameters.
    width, spread, seed
        Numbers of the projection.
    batch_size
        Texts whose gradients are in memory together.
    """

    def __init__(
        self,
        model: ByteModel,
        *,
        width: int = 512,
        spread: int = 4,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        if not 1 <= spread <= width:
            raise PlanError(
                f"gradients: spread is {spread}, expected it between 1 and the width {width}"
            )
        self.width, self._batch_size = width, batch_size
        self._model = model
        self._weights = {name: value.detach() for name, value in model.named_parameters()}
        count = sum(value.numel() for value in self._weights.values())
        random = torch.Generator().manual_seed(seed)
        self._places = torch.randint(width, (spread, count), generator=random)
        signs = torch.randint(2, (spread, count), generator=random, dtype=torch.int8)
        self._signs = (2 * signs - 1).float() / spread**0.5

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the projected gradients of some texts, ``(N, width)``; zeros for a blank one."""
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        # texts of like length together: a batch is padded to its longest
        order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
        for at in range(0, len(order), self._batch_size):
            rows = order[at : at + self._batch_size]
            found[rows] = self.project(self.full([texts[n] for n in rows])).numpy()
        return found

    def full(self, texts: Sequence[str]) -> Tensor:
        """Return the gradients as they are, ``(N, parameters)``."""
        batch = to_bytes(texts, self._model.options)
        each = vmap(grad(self._loss), in_dims=(None, 0, 0, 0))
        found = each(self._weights, batch.contexts, batch.targets, batch.mask)
        return torch.cat([value.flatten(1) for value in found.values()], dim=1)

    def project(self, gradients: Tensor) -> Tensor:
        """Project gradients ``(N, parameters)`` to ``(N, width)``."""
        found = torch.zeros(len(gradients), self.width)
        for places, signs in zip(self._places, self._signs, strict=True):
            found.index_add_(1, places, gradients * signs)
        return found

    def _loss(
        self, weights: dict[str, Tensor], contexts: Tensor, targets: Tensor, mask: Tensor
    ) -> Tensor:
        logits = functional_call(self._model, weights, (contexts[None],))
        losses = byte_losses(logits, targets[None], mask[None])
        return losses.sum() / mask.sum().clamp(min=1)
