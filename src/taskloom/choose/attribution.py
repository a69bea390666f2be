"""Which words tasks look at: attributions summed up over a vocabulary, and how much two tasks share.

Pugantsov and McCreadie, "Identifying suitable tasks for inductive transfer through the analysis of
feature attributions", ECIR 2022 (2202.01096): tasks whose single-task models look at the same words are
a pair that is worth training. No code is public; attribution and number of words are free choices here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats
from taskloom.errors import DataError, NumericalError


def word_weights(tokens: Sequence[ArrayLike], attributions: Sequence[ArrayLike], size: int) -> Floats:
    """Return ``(V,)``: how much a model looks at every word, as a share of what it looks at in a text.

    Every text counts the same: its absolute attributions are divided by their sum, then added up over
    texts and divided by their number. Words that do not occur have 0.

    Parameters
    ----------
    tokens
        For every text, the numbers of its words, ``(T_i,)`` in 0..V-1.
    attributions
        For every text, ``(T_i,)`` of its words.
    size
        V.

    Raises
    ------
    DataError
        No text, lengths that differ, or a word outside the vocabulary.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> word_weights([[0, 2], [2]], [[-1.0, 3.0], [5.0]], 4).tolist()
    [0.125, 0.0, 0.875, 0.0]
    """
    if not len(tokens) or len(tokens) != len(attributions):
        raise DataError(
            f"attribution: expected words and attributions of one text or more, "
            f"found {len(tokens)} and {len(attributions)}",
            hint="Give both for every text",
        )
    total = np.zeros(size)
    for number, (words, given) in enumerate(zip(tokens, attributions, strict=True)):
        ids, values = np.asarray(words, dtype=np.int64), np.abs(np.asarray(given, dtype=np.float64))
        if (
            ids.shape != values.shape
            or ids.ndim != 1
            or (len(ids) and not 0 <= ids.min() <= ids.max() < size)
        ):
            raise DataError(
                f"attribution: expected an attribution for each word below {size} of text {number}, "
                f"found {ids.shape} and {values.shape}",
                hint="Use the tokenizer that the model was run with",
            )
        if not np.isfinite(values).all():
            raise NumericalError(f"attribution: expected finite numbers, found others in text {number}")
        if values.sum() > 0:
            np.add.at(total, ids, values / values.sum())
    return total / len(tokens)


def top_words(weights: Floats, count: int) -> frozenset[int]:
    """Return the words of the largest weights; never one of weight 0, the first of equal ones.

    >>> sorted(top_words(np.array([0.1, 0.0, 0.7, 0.2]), 2))
    [2, 3]
    """
    order = np.argsort(-weights, kind="stable")[:count]
    return frozenset(int(word) for word in order if weights[word] > 0)


def jaccard(first: Collection[int], second: Collection[int]) -> float:
    """Return the share of words in either that are in both; 0 where there are none.

    >>> jaccard({1, 4, 7}, {4, 7, 9})
    0.5
    """
    either = set(first) | set(second)
    return len(set(first) & set(second)) / len(either) if either else 0.0


def weight_cosine(first: Floats, second: Floats) -> float:
    """Return the cosine of two tasks' weights of words; 0 where one looks at none.

    >>> round(weight_cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])), 6)
    0.707107
    """
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / scale if scale else 0.0
