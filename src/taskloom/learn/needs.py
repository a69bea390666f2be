"""What an objective needs beside the model's output, and how it is given a batch's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from taskloom.errors import PlanError
from taskloom.learn.problem import Problem, labels_for

LABELS, PAIRS, EXPERT = "labels", "pairs", "expert logits"


def check_needs(name: str, needs: Sequence[str]) -> None:
    """Refuse an objective that needs what a problem does not have.

    Raises
    ------
    PlanError
        It needs something other than labels, pairs or expert logits.
    """
    unknown = set(needs) - {LABELS, PAIRS, EXPERT}
    if unknown:
        raise PlanError(
            f"the objective {name!r} needs {', '.join(sorted(unknown))}, which a fit does not have",
            hint="Give it labels, pairs or expert logits",
        )


def uses_labels(needs: Sequence[str]) -> bool:
    """Return whether labels are looked at, as classes or as what pairs examples."""
    return LABELS in needs or PAIRS in needs


def classifies(needs: Sequence[str]) -> bool:
    """Return whether the output is taken for logits of classes; what is paired are embeddings."""
    return PAIRS not in needs


def given(
    on: Problem,
    task: str,
    needs: Sequence[str],
    logits: Tensor,
    labels: Tensor | None,
    expert: Tensor | None,
    *,
    why: str,
) -> list[Tensor]:
    """Return what an objective is called with after the model's output, in the order of its needs.

    Parameters
    ----------
    logits
        ``(B, C)``, which say how many classes labels may have; embeddings where examples are paired.
    labels
        ``(B,)`` or None.
    expert
        What the task's own expert says of the batch, ``(B, C)``; None if it is not needed.
    why
        What needs them, for messages.

    Raises
    ------
    DataError
        Labels that are needed and not there, of the test split, or of a class the head does not have.
    """
    found = []
    for need in needs:
        if need == EXPERT:
            assert expert is not None
            found.append(expert.to(logits.dtype))
        else:
            found.append(labels_for(on, task, labels, logits if need == LABELS else None, why=why))
    return found
