"""The one rule for every option that validation chooses: the best mean normalised accuracy.

Normalised is the accuracy on a task divided by that of the task's own expert. Of equal settings the
smallest wins. Settings that cannot win any more are not run on the remaining tasks, which changes no
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from taskloom.errors import DataError


def normalised_mean(found: Mapping[str, float], experts: Mapping[str, float]) -> float:
    """Return the mean over tasks of accuracy by that of the task's expert.

    >>> normalised_mean({"a": 0.4, "b": 0.9}, {"a": 0.8, "b": 0.9})
    0.75
    """
    return sum(found[task] / experts[task] for task in experts) / len(experts)


def check_experts(experts: Mapping[str, float]) -> None:
    """Refuse experts that nothing can be normalised by.

    Raises
    ------
    DataError
        An expert gets no validation example of its own task right.
    """
    for task, value in experts.items():
        if not value > 0:
            raise DataError(
                f"the expert of {task!r} gets no validation example of its task right",
                hint="Train it longer, or give the task more validation examples",
            )


def best_setting(
    settings: Sequence[float],
    experts: Mapping[str, float],
    accuracy: Callable[[float, str], float],
) -> float:
    """Return the setting with the highest `normalised_mean`; of equal ones, the smallest.

    Best first: the setting that could still get the highest mean is run on its next task, the others
    wait. A setting that is through and that no other can overtake has won. An accuracy is at most 1, so
    what experts do worst goes first: there settings lose most of what they could still have.

    Parameters
    ----------
    settings
        What is chosen from.
    experts
        Accuracy of each task's expert, above 0.
    accuracy
        (setting, task) -> accuracy in [0, 1]; called at most once for each pair.

    Examples
    --------
    >>> asked = []
    >>> def accuracy(setting, task):
    ...     asked.append((setting, task))
    ...     return {0.1: 0.2, 0.5: 0.9, 1.0: 0.9}[setting]
    >>> best_setting([1.0, 0.1, 0.5], {"a": 1.0, "b": 1.0}, accuracy)
    0.5
    >>> (0.1, "b") in asked
    False
    """
    ceiling = dict.fromkeys(experts, 1.0)
    order = sorted(experts, key=lambda task: experts[task])
    found: dict[float, dict[str, float]] = {setting: {} for setting in sorted(set(settings))}

    def bound(setting: float) -> float:
        return normalised_mean({**ceiling, **found[setting]}, experts)

    while True:
        front = max(found, key=lambda setting: (bound(setting), -setting))
        waiting = [task for task in order if task not in found[front]]
        if not waiting:
            return front
        found[front][waiting[0]] = accuracy(front, waiting[0])
