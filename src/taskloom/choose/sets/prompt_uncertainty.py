"""Prompt uncertainty: the tasks whose answers change when what is asked is said a little differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.set_choice import SetChoice, checked_size, checked_table
from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "set",
    paper="Kung et al., Active instruction tuning, EMNLP 2023 (2311.00288), section 2",
    partly={
        "Active Instruction Tuning (prompt uncertainty)": "tasks are scored, chosen and placed on the "
        "task map; tuning on them beside random choice on held-out tasks is not measured"
    },
)
def prompt_uncertainty(
    likelihoods: Sequence[ArrayLike],
    *,
    size: Annotated[int, Field(ge=1)] = 4,
    absolute: bool = True,
) -> SetChoice:
    """Take the tasks on which the model's belief in its own answer moves most under other prompts.

    A task's uncertainty is the mean, over examples and perturbed prompts, of how far the probability of
    the answer to the prompt as it was is from what it was. The reasons place every task on the task map:
    ambiguous (uncertainty of at least the median), or else easy or difficult by its mean probability.

    Where paper, code and we differ: the paper takes the distance; the released code
    (PlusLabNLP/Active-IT) has the signed difference, too (``absolute=False``), where drops and rises
    cancel. The paper perturbs instructions of a generator; what the prompts are is up to whoever
    measures.

    Parameters
    ----------
    likelihoods
        K times ``(I_k, 1 + P_k)``: for I_k examples of a task, the probability of the model's answer
        under the prompt as it is (first column) and under P_k perturbed ones.
    size
        How many tasks.
    absolute
        Distances, not signed differences.

    Raises
    ------
    DataError
        A task without a perturbed prompt, no probabilities, or a size that does not fit.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> steady, shaky = [[0.9, 0.9, 0.8]], [[0.9, 0.5, 0.3]]
    >>> found = prompt_uncertainty([steady, shaky], size=1)
    >>> found.chosen, [round(value, 6) for value in found.values]
    ((1,), [0.5])
    """
    tables = []
    for each in likelihoods:
        table = checked_table("prompt_uncertainty", "likelihoods", each)
        if table.shape[1] < 2 or table.min() < 0 or table.max() > 1:
            raise DataError(
                f"prompt_uncertainty: expected probabilities under the prompt and one perturbed prompt "
                f"or more, found shape {table.shape} and values from {table.min():.4g} to "
                f"{table.max():.4g}",
                hint="Give one row for each example, the prompt as it is first",
            )
        tables.append(table)
    checked_size("prompt_uncertainty", size, len(tables))
    moved = [each[:, 1:] - each[:, :1] for each in tables]
    values = np.array([float((np.abs(m) if absolute else m).mean()) for m in moved])
    sure = np.array([float(each[:, 0].mean()) for each in tables])
    order = np.argsort(-values, kind="stable")[:size]
    reasons = tuple(
        f"{_place(v >= np.median(values), p >= np.median(sure))}: moves by {v:.4f}, probability {p:.3f}"
        for v, p in zip(values, sure, strict=True)
    )
    chosen = tuple(int(k) for k in order)
    return SetChoice(chosen, tuple(float(values[k]) for k in chosen), (), None, reasons)


def _place(uncertain: bool, likely: bool) -> str:
    return "ambiguous" if uncertain else "easy" if likely else "difficult"
