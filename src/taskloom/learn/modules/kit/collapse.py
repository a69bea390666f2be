"""Whether a model has come to say the same of everything."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def collapsed(logits: Iterable[Tensor]) -> bool:
    """Return whether all examples, two at least, are predicted to be of one class.

    >>> import torch
    >>> collapsed([torch.tensor([[2.0, 1.0], [1.0, 0.0]])]), collapsed([torch.eye(2)])
    (True, False)
    """
    found = [int(label) for batch in logits for label in batch.argmax(-1).flatten()]
    return len(found) > 1 and len(set(found)) == 1
