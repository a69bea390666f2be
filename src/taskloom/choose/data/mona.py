"""MONA: texts that set off the same monosemantic neurons as the target's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.selector import Floats, Selector, finite, same_width
from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "selector",
    paper="Ma et al., Task-specific data selection for instruction tuning via monosemantic neuronal "
    "activations, 2025",
    needs=("target", "model"),
    partly={
        "MONA (monosemantic activation selection)": "the paper's instruction data and language models; "
        "sparse autoencoders that others trained"
    },
)
def mona() -> Selector:
    """Choose texts whose sparse code is most like the mean code of the target.

    A sparse autoencoder turns a model's hidden vector of every token into a few active units of many; a
    text's code is their mean over its tokens, and the target's prototype p the mean over its texts. The
    score is the generalised Jaccard similarity ``sum_i min(z_i, p_i) / sum_i max(z_i, p_i)``, in [0,
    1].

    Where the paper and we differ: the paper uses Top-K autoencoders that were trained on a language
    model's hidden layer by others; here one is trained on the pool's own hidden vectors of a given
    encoder (`taskloom.learn.mixtures.sparse_autoencoder`). We found no released code, and read the rule
    as our notes of the paper state it.

    Examples
    --------
    >>> scorer = mona().fit([[0.4, 0.1, 0.0, 0.0]], None, 0)
    >>> scorer([[0.5, 0.0, 0.2, 0.0], [0.4, 0.1, 0.0, 0.0]]).round(6).tolist()
    [0.5, 1.0]
    """
    return Selector(sees="code", fit=_fit)


@dataclass(frozen=True)
class Likeness:
    """Scores codes by their generalised Jaccard similarity with a prototype ``(D,)``."""

    prototype: Floats

    def __call__(self, items: ArrayLike) -> Floats:
        """Score some codes, ``(B,)``; a code of zeros scores 0."""
        codes = same_width(_codes(items), len(self.prototype), "mona")
        shared = np.minimum(codes, self.prototype).sum(1)
        total = np.maximum(codes, self.prototype).sum(1)
        found: Floats = shared / total
        return found


def _fit(target: Any, first: Any, seed: int) -> Likeness:
    prototype = _codes(target).mean(0)
    if not prototype.sum():
        raise DataError(
            "mona: no unit is active on any target example",
            hint="Give other examples, or train the autoencoder longer",
        )
    return Likeness(prototype)


def _codes(items: ArrayLike) -> Floats:
    codes = finite(items, "mona")
    if codes.min() < 0:
        raise DataError(
            f"mona: expected codes of at least 0, found {codes.min():.3g}",
            hint="Codes come out of a rectifier",
        )
    return codes
