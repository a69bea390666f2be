"""Gradient similarity: texts on which a small model would learn what the target asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from numpy.typing import ArrayLike

from taskloom.choose.selector import Floats, Selector, same_width, unit
from taskloom.registry import register


@register(
    "selector",
    paper="Xia et al., LESS: selecting influential data for targeted instruction tuning, ICML 2024, "
    "sections 2 and 4",
    needs=("target", "proxy"),
)
def gradient_similarity(*, over: Literal["mean", "max"] = "mean") -> Selector:
    """Choose texts whose loss gradient points where the target's points.

    The gradient of a small model's loss on each text is projected at random to a few hundred numbers
    and scaled to length 1; the score is its inner product with the projected gradients of the target,
    averaged over target examples or the largest. To first order it is how much a step on the text
    lowers the target's loss.

    Where paper, code and we differ: the paper takes the gradients at several checkpoints of a warm-up
    run, weighted by their learning rates, of LoRA parameters, and for the pool those that Adam would
    step along; ours are plain gradients of all parameters of one small proxy, warmed up on a part of
    the pool (see `taskloom.learn.mixtures.gradients`, also for the projection). It averages within each
    of a target's subtasks and takes the best subtask; here the target is one subtask (``mean``), or
    every example is one (``max``).

    Parameters
    ----------
    over
        What is taken over the target's examples.

    Examples
    --------
    >>> scorer = gradient_similarity().fit([[1.0, 0.0], [0.0, 1.0]], None, 0)
    >>> scorer([[1.0, 0.0], [3.0, 3.0], [-1.0, 0.0]]).round(6).tolist()
    [0.5, 0.707107, -0.5]
    """
    return Selector(sees="gradient", fit=partial(_fit, over))


@dataclass(frozen=True)
class Influence:
    """Scores gradients by their inner product with the rows of ``towards`` (M, D), the largest one."""

    towards: Floats

    def __call__(self, items: ArrayLike) -> Floats:
        """Score some gradients, ``(B,)``."""
        gradients = unit(items, "gradient_similarity")
        same_width(gradients, self.towards.shape[1], "gradient_similarity")
        best: Floats = (gradients @ self.towards.T).max(1)
        return best


def _fit(over: str, target: Any, first: Any, seed: int) -> Influence:
    gradients = unit(target, "gradient_similarity")
    return Influence(gradients.mean(0, keepdims=True) if over == "mean" else gradients)
