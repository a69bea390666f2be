"""Random choice: what every selector must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.choose.keyed import digests, uniform
from taskloom.choose.selector import Floats, Selector
from taskloom.registry import register


@dataclass(frozen=True)
class Drawn:
    """Gives every text a number in (0, 1) of its own."""

    seed: int

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Draw for some texts."""
        return uniform(digests(texts), self.seed)


def _fit(target: Any, first: Any, seed: int) -> Drawn:
    return Drawn(seed)


@register("selector")
def random() -> Selector:
    """Choose at random, every text with the same chance; the baseline of all others.

    The draw of a text is fixed by the text and the seed, so that a larger choice holds a smaller one of
    the same seed, and neither order nor workers change it.

    Examples
    --------
    >>> scorer = random().fit(None, None, 0)
    >>> scores = scorer(["a", "b", "a"])
    >>> bool(scores[0] == scores[2]), bool(scores[0] == scores[1])
    (True, False)
    """
    return Selector(sees="text", fit=_fit, needs_target=False)
