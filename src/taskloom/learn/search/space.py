"""The numbers that are searched over, and how they become options of a merging method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskloom.errors import PlanError


@dataclass(frozen=True)
class Gene:
    """One number.

    Attributes
    ----------
    path
        Where it belongs: the option's name and, of an option that is a mapping, the keys inside.
    start
        Where the search begins.
    low, high
        What it is cut to.
    fold
        Take the absolute value first.
    whole
        Round to an integer.
    """

    path: tuple[str, ...]
    start: float
    low: float = -math.inf
    high: float = math.inf
    fold: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.start <= self.high or not self.low < self.high:
            raise PlanError(
                f"option {self.name!r} is searched from {self.low:g} to {self.high:g}, starting at "
                f"{self.start:g}, which is no range with a start in it",
                hint="Give the lower end first, and a start between both",
            )

    @property
    def name(self) -> str:
        """The path in one word."""
        return ".".join(self.path)

    @property
    def width(self) -> float:
        """Length of its range; 1 where it has no end."""
        return self.high - self.low if math.isfinite(self.high - self.low) else 1.0

    def value(self, number: float) -> float | int:
        """Return what a number stands for."""
        inside = min(max(abs(number) if self.fold else number, self.low), self.high)
        return round(inside) if self.whole else float(inside)


@dataclass(frozen=True)
class Space:
    """Genes in order, and options that stay as they are.

    Attributes
    ----------
    genes
        The coordinates of a point.
    fixed
        Options of the method that are not searched.
    finish
        Applied to the options of every candidate.
    """

    genes: tuple[Gene, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not self.genes:
            raise PlanError("nothing is searched over", hint="Name an option and its range")

    @property
    def start(self) -> list[float]:
        """Where the search begins."""
        return [gene.start for gene in self.genes]

    def decode(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the options that a point stands for.

        >>> Space((Gene(("scale",), 0.5, 0.0, 1.0), Gene(("weights", "a"), 1.0))).decode([1.2, -0.25])
        {'scale': 1.0, 'weights': {'a': -0.25}}
        """
        options = dict(self.fixed)
        for gene, number in zip(self.genes, point, strict=True):
            inside = options
            for key in gene.path[:-1]:
                inside[key] = dict(inside.get(key, {}))
                inside = inside[key]
            inside[gene.path[-1]] = gene.value(float(number))
        return options if self.finish is None else self.finish(options)
