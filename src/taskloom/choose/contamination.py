"""Whether a source has seen the target: hashed runs of words that both have.

A source that was trained on the target's examples looks like the best of all and may know nothing else.
Of every text the runs of words are hashed to 64 bits, so that millions of examples are held in 8 bytes
each run, and compared without keeping the texts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError

Hashes = NDArray[np.uint64]
#: words in a run, and the share of an example's runs that makes it seen
WORDS, SHARE = 8, 0.5
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Seen:
    """How many of a target's examples a source was trained on.

    Attributes
    ----------
    count, of
        Examples that were seen, of all that were looked at.
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """``count / of``."""
        return self.count / self.of


def hashed(example: Any, words: int = WORDS) -> Hashes:
    """Return the sorted hashes of an example's runs of words, each once.

    Case, punctuation and the form of letters (NFKC) do not count. A text of fewer words is one run; an
    array (a picture) is one, too: its bytes.

    Examples
    --------
    >>> first, second = hashed("The film was GOOD!", 3), hashed("the film, was bad", 3)
    >>> len(first), len(np.intersect1d(first, second))
    (2, 1)
    """
    if isinstance(example, str):
        tokens = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", example).casefold()).split()
        count = max(len(tokens) - words + 1, 1)
        runs = {" ".join(tokens[i : i + words]).encode() for i in range(count)}
    else:
        array = np.ascontiguousarray(example, dtype="<f4")
        runs = {repr(array.shape).encode() + array.tobytes()}
    digests = [hashlib.blake2b(run, digest_size=8).digest() for run in runs]
    return np.unique(np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64))


def fingerprint(examples: Sequence[Any], words: int = WORDS) -> Hashes:
    """Return the sorted hashes of all runs of many examples, each once."""
    found = [hashed(each, words) for each in examples]
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64)


def seen_by(target: Sequence[Any], source: Hashes, *, words: int = WORDS, share: float = SHARE) -> Seen:
    """Count the target's examples of whose runs a source has at least a share.

    Parameters
    ----------
    target
        N texts, or an array of N pictures.
    source
        Of `fingerprint`, made with as many words.

    Raises
    ------
    DataError
        No target examples, or a share outside (0, 1].

    Examples
    --------
    >>> source = fingerprint(["a b c d", "e f"], 2)
    >>> seen_by(["A, b, c!", "x y z", "e f"], source, words=2)
    Seen(count=2, of=3)
    """
    if not len(target) or not 0 < share <= 1:
        raise DataError(
            f"contamination: expected one example or more and a share in (0, 1], "
            f"found {len(target)} and {share}",
            hint="Give the target's examples",
        )
    count = sum(float(np.isin(hashed(each, words), source).mean()) >= share for each in target)
    return Seen(count, len(target))
