"""DSIR: importance resampling with hashed n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from taskloom.choose.keyed import digests, gumbel
from taskloom.choose.selector import Floats, Selector
from taskloom.errors import DataError
from taskloom.registry import register

_WORD_OR_SIGNS = re.compile(r"\w+|[^\w\s]+")
_EPSILON = 1e-8


@register(
    "selector",
    paper="Xie et al., Data selection for language models via importance resampling, NeurIPS 2023",
    needs=("target",),
)
def dsir(
    *,
    buckets: Annotated[int, Field(ge=2)] = 10_000,
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2,
    min_tokens: Annotated[int, Field(ge=0)] = 0,
    draw: bool = True,
) -> Selector:
    """Draw texts so that their words and word pairs are distributed as the target's.

    Words and runs of signs of the lower-cased text, and runs of up to ``ngrams`` of them, are hashed
    into buckets. With p the shares of the buckets among all of the target's (or the pool's) n-grams, a
    text of counts c has the log weight ``sum_b c_b (ln(p_target + 1e-8) - ln(p_pool + 1e-8))``; adding
    a Gumbel draw to each and taking the k largest samples k texts without replacement in proportion to
    their weights. The score is the log weight with its draw. A blank text is never chosen.

    Two passes over the pool, one to count and one to score; memory does not grow with the pool.

    Where paper, code and we differ: hashing (SHA-256 modulo ``buckets``), tokens and the 1e-8 are the
    released package's (data-selection 1.0.3), so log weights agree with its own. It skips lines that
    are not JSON; here they are refused. Its draws differ from run to run; here a text's draw is fixed
    by the text and the seed. Paper and package leave out texts of fewer than 100 words; of a pool of
    short texts nothing would be left, so 0 is the default of ``min_tokens``. The package can choose for
    several targets apart and smooth their counts; here there is one target. The log weight is a sum, so
    long texts have extreme weights.

    Parameters
    ----------
    buckets
        Number of hash buckets.
    ngrams
        Longest run of tokens that is counted.
    min_tokens
        Texts of fewer tokens are never chosen.
    draw
        Add the Gumbel draws. Without, the k largest log weights are taken, which is no longer a sample.

    Examples
    --------
    >>> rule = dsir(draw=False)
    >>> pool = ["how far is the moon", "buy it now", "buy one now", "who is the king"]
    >>> scorer = rule.fit(["how old is the moon", "who is the queen"], rule.count(pool), 0)
    >>> sorted(scorer(pool).argsort()[:2].tolist())
    [1, 2]
    """
    count = partial(count_ngrams, buckets=buckets, ngrams=ngrams)
    return Selector(sees="text", fit=partial(_fit, count, min_tokens, draw), count=count)


@lru_cache(maxsize=1 << 18)
def bucket(ngram: str, buckets: int) -> int:
    """Return the bucket of an n-gram, as the released package hashes it.

    >>> bucket("the moon", 10_000) == int(sha256(b"the moon").hexdigest(), 16) % 10_000
    True
    """
    return int.from_bytes(sha256(ngram.encode("utf-8", "surrogatepass")).digest()) % buckets


def hashed(text: str, *, buckets: int, ngrams: int) -> tuple[list[int], int]:
    """Return the buckets of a text's n-grams, one for each, and the number of its tokens."""
    tokens = _WORD_OR_SIGNS.findall(text.lower())
    found = [bucket(token, buckets) for token in tokens]
    for n in range(2, ngrams + 1):
        runs = zip(*(tokens[start:] for start in range(n)), strict=False)
        found += [bucket(" ".join(run), buckets) for run in runs]
    return found, len(tokens)


def count_ngrams(texts: Sequence[str], *, buckets: int, ngrams: int) -> NDArray[np.int64]:
    """Return how many n-grams of some texts fall into each bucket: ``(buckets,)`` int64."""
    found = [place for text in texts for place in hashed(text, buckets=buckets, ngrams=ngrams)[0]]
    return np.bincount(np.array(found, dtype=np.int64), minlength=buckets)


def log_ratio(target: NDArray[np.int64], pool: NDArray[np.int64]) -> Floats:
    """Return ``ln p_target - ln p_pool`` of every bucket from two vectors of counts.

    >>> ratio = log_ratio(np.array([5, 3, 2]), np.array([2, 3, 5]))
    >>> (ratio @ np.array([[3, 0], [1, 1], [0, 3]])).round(6).tolist()
    [2.748872, -2.748872]
    """
    shares = [counts / counts.sum() for counts in (target, pool)]
    ratio: Floats = np.log(shares[0] + _EPSILON) - np.log(shares[1] + _EPSILON)
    return ratio


@dataclass(frozen=True)
class Weigher:
    """Scores texts by their log importance weight, and a draw."""

    ratio: Floats
    ngrams: int
    min_tokens: int
    seed: int | None

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Score some texts, ``(B,)``."""
        scores = np.full(len(texts), -np.inf)
        for place, text in enumerate(texts):
            found, tokens = hashed(text, buckets=len(self.ratio), ngrams=self.ngrams)
            if tokens and tokens >= self.min_tokens:
                scores[place] = self.ratio[found].sum()
        return scores if self.seed is None else scores + gumbel(digests(texts), self.seed)


def _fit(
    count: partial[NDArray[np.int64]],
    min_tokens: int,
    draw: bool,
    target: Sequence[str],
    pool: Any,
    seed: int,
) -> Weigher:
    counted = count(target)
    for name, counts in (("target", counted), ("pool", pool)):
        if not counts.sum():
            raise DataError(
                f"dsir: no text of the {name} holds a word", hint="Check which column holds the texts"
            )
    ratio = log_ratio(counted, pool)
    return Weigher(ratio, count.keywords["ngrams"], min_tokens, seed if draw else None)
