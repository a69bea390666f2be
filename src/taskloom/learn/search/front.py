"""Which candidates are beaten by none on every task at once."""

from __future__ import annotations

from collections.abc import Sequence


def on_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Tell of every point whether no other is as low everywhere and lower somewhere.

    A point that is not finite is on no front.

    >>> on_front([(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, float("nan"))])
    [True, True, False, False]
    """

    def finite(point: Sequence[float]) -> bool:
        return all(abs(value) < float("inf") for value in point)

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    good = [point for point in points if finite(point)]
    return [finite(point) and not any(beats(other, point) for other in good) for point in points]
