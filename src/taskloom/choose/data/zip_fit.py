"""ZIP-FIT: texts that compress well together with the target's."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from taskloom.choose.selector import Floats, Selector
from taskloom.errors import DataError, PlanError
from taskloom.registry import register

Compressor = Literal["gzip", "zlib", "deflate", "lz4"]
#: bytes -> length of what they are compressed to
Size = Callable[[bytes], int]
#: bytes that a format adds to raw deflate: header, checksum, length
_WRAPPING = {"gzip": 18, "zlib": 6, "deflate": 0}
_SMALL = 700  # bytes up to which the small window finds what the large one does


@register(
    "selector",
    paper="Obbad et al., ZIP-FIT: embedding-free data selection via compression-based alignment, 2024",
    needs=("target",),
    partly={"ZIP-FIT": "fine-tuning language models of the paper's size on what was chosen"},
)
def zip_fit(
    *,
    compressor: Compressor = "gzip",
    level: Annotated[int, Field(ge=1, le=9)] = 9,
) -> Selector:
    """Choose texts that compress well together with examples of the target.

    With C the length in bytes after compression, ``NCD(s, t) = (C(s + t) - min(C(s), C(t))) / max(C(s),
    C(t))``, and a text's score is the mean of ``1 - NCD(s, t)`` over the target's texts t: about 1 for
    a copy, about 0 for what has nothing in common. The text of the pool comes first in ``s + t``; the
    other order can give other lengths. A blank text scores 0.

    Costs one compression for every text of the pool and target example, so a few dozen target examples
    are what a large pool affords. Memory does not grow with the pool.

    Where paper, code and we differ: the paper compresses by gzip; its level is not stated, and 9, that
    of Python's gzip, is ours. The released package (zip-fit 1.0.9) takes gzip at level 0 unless told
    otherwise, which stores bytes as they are, so that all texts score about 0; its later sources take
    lz4, which is an option here where that package is installed. It holds all pairs of texts in memory,
    and has no rule for ties or blank texts; here the earlier row wins. Headers make up much of short
    texts' length: ``deflate`` leaves them out.

    Parameters
    ----------
    compressor
        ``gzip`` (18 bytes around deflate), ``zlib`` (6), ``deflate`` (none), ``lz4`` (frames).
    level
        Effort of compression; lz4 takes 1 to 9, too, and 1 is its fast mode.

    Raises
    ------
    PlanError
        lz4 is asked for and not installed.
    DataError
        A target example is blank.

    Examples
    --------
    >>> scorer = zip_fit(compressor="zlib").fit(["def add(a, b): return a + b"] * 2, None, 0)
    >>> near, far = scorer(["def sub(a, b): return a - b", "The cat sat on the mat again"])
    >>> bool(near > far)
    True
    """
    size = _sizer(compressor, level)
    return Selector(sees="text", fit=partial(_fit, size))


def alignment(alone: int, other: int, together: int) -> float:
    """Return ``1 - NCD`` of two texts from their compressed lengths and that of their concatenation.

    >>> round(alignment(100, 120, 150), 6)
    0.583333
    """
    return 1 - (together - min(alone, other)) / max(alone, other)


@dataclass(frozen=True)
class Aligner:
    """Scores texts by how well they compress together with the target's."""

    size: Size
    target: tuple[bytes, ...]
    alone: tuple[int, ...]

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Score some texts, ``(B,)``."""
        return np.array([self._one(text) for text in texts], dtype=np.float64)

    def _one(self, text: str) -> float:
        if not text.strip():
            return 0.0
        data, size = text.encode("utf-8", "surrogatepass"), self.size
        own = size(data)
        total = 0.0
        for other, alone in zip(self.target, self.alone, strict=True):
            total += alignment(own, alone, size(data + other))
        return total / len(self.target)


def _fit(size: Size, target: Sequence[str], first: Any, seed: int) -> Aligner:
    for place, text in enumerate(target):
        if not text.strip():
            raise DataError(f"zip_fit: target example {place} is blank", hint="Leave it out")
    data = tuple(text.encode("utf-8", "surrogatepass") for text in target)
    return Aligner(size, data, tuple(size(each) for each in data))


def _sizer(compressor: Compressor, level: int) -> Size:
    if compressor == "lz4":
        return partial(_lz4, _lz4_frames(), level)
    return partial(_deflated, _WRAPPING[compressor], level)


def _deflated(wrapping: int, level: int, data: bytes) -> int:
    """Length after deflate, and the bytes around it.

    At level 9 a window of 1 kB holds all of a short text and its chains are searched to their ends, so
    it finds the same matches as one of 32 kB, and starts in a fraction of the time.
    """
    if level == 9 and len(data) <= _SMALL:
        made = zlib.compressobj(9, zlib.DEFLATED, -10, 4)
        return wrapping + len(made.compress(data)) + len(made.flush())
    return wrapping + len(zlib.compress(data, level, -15))


def _lz4_frames() -> Any:
    try:
        return import_module("lz4.frame")
    except ModuleNotFoundError:
        raise PlanError(
            "zip_fit: the compressor 'lz4' needs the package lz4, which is not installed",
            hint="Install it (pip install lz4), or take the compressor gzip",
        ) from None


def _lz4(frames: Any, level: int, data: bytes) -> int:
    # its levels below 3 are one fast mode, which the released package calls 0
    return len(frames.compress(data, compression_level=0 if level < 3 else level))
