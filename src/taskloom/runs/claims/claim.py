"""What papers claim of their merging methods, as data with a form that a machine can check.

The list is ``data/claims.yaml``, one record a method. A sentence is ours; ``seen`` says where the claim
was read, so that a reader knows how far to trust it. ``check`` is the claim in the words of the suites.

>>> record("knots").claims[0].check
Better(kind='better', than=['ties'], yardstick='normalised', experts='lora', margin=0.0)
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal, TypeVar, get_args

import yaml
from pydantic import Field

from taskloom.errors import UnknownName
from taskloom.evaluation.strict import Strict, parse
from taskloom.runs.claims.suite import Kind

M = TypeVar("M", bound=Strict)
Family = Literal[
    "averages and paths",
    "task arithmetic",
    "prune and add",
    "elect and average",
    "weights in closed form",
    "spectra",
    "statistics of experts",
    "parts of tasks",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
#: what stands for the base among methods
BASE = "base"
#: what the models are that a method is meant to merge
Merges = Literal["tasks", "one task", "one run", "rewards", "edits", "pair"]
#: mean over tasks of accuracy, or of accuracy by that of the task's own expert
Yardstick = Literal["accuracy", "normalised"]


class Better(Strict):
    """The method's mean is above every rival's by more than ``margin``, paired by task and seed.

    A margin below 0 reads "not worse by more than": -0.01 is one point of a hundred.
    """

    kind: Literal["better"] = "better"
    than: list[str] = Field(min_length=1, description='Registered methods, or "base".')
    yardstick: Yardstick = "normalised"
    experts: Kind | None = Field(None, description="Kind of experts the claim is about; any if None.")
    margin: float = Field(0.0, allow_inf_nan=False)


class Retains(Strict):
    """The mean of accuracy by that of the task's own expert is above ``at_least``."""

    kind: Literal["retains"] = "retains"
    at_least: float = Field(gt=0, allow_inf_nan=False)
    experts: Kind | None = None


class Untestable(Strict):
    """The suites cannot decide the claim."""

    kind: Literal["untestable"] = "untestable"
    why: str = Field(min_length=1, description="One sentence without a full stop.")


Check = Annotated[Better | Retains | Untestable, Field(discriminator="kind")]


class Claim(Strict):
    """One claim: who makes it, where it was read, what it says, how it is checked."""

    source: str = Field(min_length=1, description="Authors, title or venue, year.")
    where: str = Field(min_length=1, description="Part of the source that makes the claim.")
    seen: Literal["abstract", "paper", "code", "card"] = Field(
        description="Where we read it: the abstract, the paper, the released code and its README, or "
        "notes on the paper only."
    )
    sentence: str = Field(min_length=1)
    check: Check


class Record(Strict):
    """What is known of one method beside its registration."""

    family: Family
    merges: list[Merges] = Field(min_length=1)
    links: list[str] = Field([], description="The paper and the released code.")
    claims: list[Claim] = Field(min_length=1)


def packaged(model: type[M], file: str) -> dict[str, M]:
    """Read what a file of the folder ``data`` says of methods, by name, in the order of the file.

    Raises
    ------
    PlanError
        The file breaks its schema.
    """
    text = resources.files("taskloom").joinpath("data", file).read_text("utf-8")
    return {
        name: parse(model, content, where=f"{file}, {name}")
        for name, content in yaml.safe_load(text).items()
    }


@lru_cache
def records() -> dict[str, Record]:
    """Return the record of every method by name, in the order of the file.

    Raises
    ------
    PlanError
        The file breaks its schema.
    """
    return packaged(Record, "claims.yaml")


def record(method: str) -> Record:
    """Return the record of one method, or raise `UnknownName` with the nearest name."""
    found = records()
    if method not in found:
        raise UnknownName("method", method, found, where="data/claims.yaml")
    return found[method]
