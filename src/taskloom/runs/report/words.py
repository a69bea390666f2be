"""Numbers as a reader wants them: points, intervals, seconds, bytes; no digit that n cannot carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def places(n: int | None) -> int:
    """Decimals that a share of ``n`` examples, written in points, can carry.

    One example is worth 100 / n points: below 100 examples a decimal would be invented.

    >>> places(250), places(64), places(None)
    (1, 0, 1)
    """
    return 0 if n is not None and n < 100 else 1


def decimal(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Write a number with a true minus sign; a missing or non-finite one as a dash.

    >>> decimal(-0.254), decimal(0.25, 1, signed=True), decimal(float("nan")), decimal(-0.001)
    ('−0.25', '+0.2', '–', '0.00')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        return text
    sign = MINUS if value < 0 else "+" if signed else ""
    return sign + text


def points(value: float | None, n: int | None = None, *, signed: bool = False) -> str:
    """Write a share in points, with the decimals that ``n`` examples allow.

    >>> points(0.8724, 250), points(0.8724, 64), points(-0.031, 250, signed=True)
    ('87.2', '87', '−3.1')
    """
    return decimal(None if value is None else 100.0 * value, places(n), signed=signed)


def interval(low: float, high: float, n: int | None = None, *, signed: bool = False) -> str:
    """Write a 95 % interval of a share in points.

    >>> interval(0.823, 0.911, 250)
    '82.3 to 91.1'
    >>> interval(-0.012, 0.05, 250, signed=True)
    '−1.2 to +5.0'
    """
    return f"{points(low, n, signed=signed)} to {points(high, n, signed=signed)}"


def significant(value: float | None) -> str:
    """Write a score on an arbitrary scale with three significant digits.

    >>> significant(0.123456), significant(-12.345), significant(1234.5)
    ('0.123', '−12.3', '1,234')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    return decimal(value, min(max(0, 2 - magnitude), 8))


def duration(seconds: float) -> str:
    """Write a wall time.

    >>> duration(0.034), duration(4.21), duration(84.4), duration(3720)
    ('0.03 s', '4.2 s', '1 min 24 s', '1 h 2 min')
    """
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: int) -> str:
    """Write a number of bytes in decimal units.

    >>> size(812), size(91_000_000), size(1_234_000_000)
    ('812 B', '91.0 MB', '1.2 GB')
    """
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def count(n: int, noun: str, plural: str = "") -> str:
    """Write a count with its noun.

    >>> count(1, "task"), count(2000, "example"), count(2, "loss", "losses")
    ('1 task', '2,000 examples', '2 losses')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listing(names: list[str]) -> str:
    """Join names as a sentence does.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def settings(options: Mapping[str, Any]) -> str:
    """Write options as ``key = value`` pairs in their own order.

    >>> settings({"density": 0.2, "scale": 1.0}), settings({})
    ('density = 0.2, scale = 1.0', '–')
    """
    return ", ".join(f"{key} = {value}" for key, value in options.items()) or MISSING


def short(digest: str) -> str:
    """Shorten a digest to what tells two apart by eye.

    >>> short("sha256:0123456789abcdef0123"), short("")
    ('0123456789ab', '–')
    """
    return digest.removeprefix("sha256:")[:12] or MISSING
