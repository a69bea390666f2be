"""Whether a model has come to say the same of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor


def told_collapse(tasks: Iterable[str], logits: Callable[[str], Iterable[Tensor]]) -> dict[str, str]:
    """Return what a module says of itself: the tasks that get one class for everything, if any does.

    Parameters
    ----------
    logits
        Task -> logits ``(B, C)`` of its examples, batch by batch.
    """
    same = [task for task in tasks if collapsed(logits(task))]
    return {"collapsed": ", ".join(same)} if same else {}


def collapsed(logits: Iterable[Tensor]) -> bool:
    """Return whether all examples, two at least, are predicted to be of one class.

    Logits that are not finite predict none.

    Parameters
    ----------
    logits
        ``(B, C)``, batch by batch.

    >>> import torch
    >>> collapsed([torch.tensor([[2.0, 1.0], [1.0, 0.0]])]), collapsed([torch.eye(2)])
    (True, False)
    """
    found: list[int] = []
    for batch in logits:
        if not bool(batch.isfinite().all()):
            return False
        found += batch.argmax(-1).flatten().tolist()
    return len(found) > 1 and len(set(found)) == 1
