"""Exact search for near-duplicate texts: Jaccard similarity of their sets of word pairs.

Two sets with similarity of at least ``t`` share an element among the rarest ``n - ceil(t * n) + 1`` of
each (prefix filtering: Chaudhuri, Ganti & Kaushik 2006; Bayardo, Ma & Srikant 2007), so only texts that
share a rare pair are compared, and none is missed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

_NOT_WORD = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"\d+")


def shingles(text: str, words: int = 2) -> frozenset[str]:
    """Return the set of runs of ``words`` words, without case, punctuation and the values of numbers.

    >>> sorted(shingles("Win 500 pounds, NOW!"))
    ['0 pounds', 'pounds now', 'win 0']
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    tokens = _NUMBER.sub("0", _NOT_WORD.sub(" ", plain)).split()
    if len(tokens) < words:
        return frozenset([" ".join(tokens) or text])
    return frozenset(" ".join(tokens[i : i + words]) for i in range(len(tokens) - words + 1))


def near_duplicates(candidates: Sequence[str], held_out: Sequence[str], threshold: float) -> list[int]:
    """Return the indices of candidates that are near-duplicates of some held-out text.

    Parameters
    ----------
    threshold
        Least Jaccard similarity |a & b| / |a | b| of the sets of word pairs, in (0, 1].

    Examples
    --------
    >>> near_duplicates(["Call 123 to win a big prize today", "hello there"],
    ...                 ["call 456 to win a big prize today!"], 0.8)
    [0]
    """
    first, second = [shingles(t) for t in candidates], [shingles(t) for t in held_out]
    frequency = Counter(s for group in (first, second) for each in group for s in each)

    def prefix(each: frozenset[str]) -> list[str]:
        size = len(each) - math.ceil(threshold * len(each) - 1e-9) + 1
        return sorted(each, key=lambda s: (frequency[s], s))[:size]

    index: dict[str, list[int]] = defaultdict(list)
    for j, each in enumerate(second):
        for shingle in prefix(each):
            index[shingle].append(j)
    return [
        i for i, each in enumerate(first) if _has_match(each, prefix(each), second, index, threshold)
    ]


def _has_match(
    each: frozenset[str],
    prefix: list[str],
    others: list[frozenset[str]],
    index: dict[str, list[int]],
    threshold: float,
) -> bool:
    tried: set[int] = set()
    for shingle in prefix:
        for j in index.get(shingle, ()):
            if j in tried:
                continue
            tried.add(j)
            other = others[j]
            if min(len(each), len(other)) < threshold * max(len(each), len(other)) - 1e-9:
                continue
            shared = len(each & other)
            if shared >= threshold * (len(each) + len(other) - shared) - 1e-9:
                return True
    return False
