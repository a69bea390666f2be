"""What a mixture is made of, and the weights that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError


@dataclass(frozen=True)
class Domain:
    """The texts of one domain or task, some of them held back for validation."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """A weight for each domain, and what led to it.

    Attributes
    ----------
    weights
        By name. Shares to sample by sum to 1; factors of the loss have the mean 1.
    meaning
        Which of the two they are.
    measured
        What was measured on the way, by what it is, each by domain.
    trace
        Weights after every step, ``(steps, domains)``; None where there are no steps.
    """

    weights: Mapping[str, float]
    meaning: Literal["share to sample by", "factor of the loss"]
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trace: NDArray[np.float64] | None = None


def check_domains(domains: Sequence[Domain], who: str) -> None:
    """Refuse fewer than two domains, a name that comes twice, and a domain without texts.

    Raises
    ------
    DataError
        One of these.
    """
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names) or len(names) < 2:
        raise DataError(
            f"{who}: expected two domains or more with names of their own, found {', '.join(names)}",
            hint="Name every domain once",
        )
    for domain in domains:
        for part in ("train", "validation"):
            if not any(text.strip() for text in getattr(domain, part)):
                raise DataError(
                    f"{who}: the domain {domain.name!r} has no text for {part}",
                    hint="Give it a few dozen texts, or leave it out",
                )
