"""Compositions that learn, and with what the ledger of claims runs them: ``data/learned.yaml``.

>>> learned()["adamerging_plus"].run.options["trim"]
0.2
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from taskloom import registry
from taskloom.errors import PlanError
from taskloom.evaluation.strict import Strict
from taskloom.runs.claims.claim import BASE, Better, Claim, Record, packaged, records
from taskloom.runs.claims.measures import EXPERT
from taskloom.runs.claims.suite import Kind, Suite

#: in the order in which they are listed
FAMILIES = ("fit", "module", "loop")
#: stands for every task in turn in the options of a row
EACH = "each"
#: loop -> the option that names the task that it is for
_TARGET = {"forkmerge": "targets", "graft": "task", "scalearn": "task"}


class Below(Strict):
    """The merge that a small module sits on."""

    method: str
    options: dict[str, Any] = Field({})


class Run(Strict):
    """How a composition is run.

    Attributes
    ----------
    of
        Its registered name.
    sees
        Training inputs without labels, or validation examples with them; loops train.
    examples
        Training inputs of every task.
    each
        One for each task, instead of one for all.
    """

    family: Literal["fit", "module", "loop"]
    of: str
    options: dict[str, Any] = Field({}, description="Where they are not the defaults.")
    below: Below | None = Field(None, description="The base if None.")
    experts: Kind | None = Field(None, description="The only kind that it takes.")
    sees: Literal["inputs", "labels"] = "inputs"
    examples: int = Field(256, ge=1)
    batch_size: int = Field(16, ge=1)
    each: bool = False


class Learned(Strict):
    """What is known of one composition beside its registration."""

    run: Run
    changed: str = Field("", description="Where options are not the paper's, one sentence.")
    links: list[str] = Field(min_length=1)
    claims: list[Claim] = Field(min_length=1)


@lru_cache
def learned() -> dict[str, Learned]:
    """Return every composition by the name of its rows, in the order of the file.

    Raises
    ------
    PlanError
        The file breaks its schema.
    """
    return packaged(Learned, "learned.yaml")


def held_against() -> list[str]:
    """Return base, experts and the merging methods that claims about compositions compare with.

    >>> held_against()[:4]
    ['base', 'expert', 'task_arithmetic', 'ties']
    """
    rivals = [
        name
        for found in learned().values()
        for claim in found.claims
        if isinstance(claim.check, Better)
        for name in claim.check.than
        if name not in learned()
    ]
    return [*dict.fromkeys([BASE, EXPERT, *rivals])]


def known(method: str) -> Record | Learned | None:
    """Return the record of a merging method or composition, if there is one."""
    return records().get(method) or learned().get(method)


def given_options(run: Run, suite: Suite) -> dict[str, Any]:
    """Return the options that a composition is called with, where they are not the defaults.

    A loop takes as many steps of every task as one of the suite's experts.

    Raises
    ------
    PlanError
        The suite does not say how many steps its experts take, or they are fewer than the rounds.
    """
    options = dict(run.options)
    if run.family == "loop":
        steps = suite.experts.get("full", {}).get("steps")
        rounds = options["rounds"]
        if not isinstance(steps, int) or steps < rounds:
            raise PlanError(
                f"{run.of}: {rounds} rounds share the steps of an expert's training, and the suite "
                f"{suite.name!r} says {'none' if steps is None else steps}",
                hint="Give experts.full.steps",
            )
        options["steps"] = steps // rounds
    return options


def row_options(run: Run, suite: Suite) -> dict[str, Any]:
    """Return what a row says of its options: those of the composition, and what it was shown.

    Raises
    ------
    PlanError
        As `given_options`.
    """
    entry = registry.get(run.family, run.of)
    given = given_options(run, suite)
    if run.each:
        given[_TARGET[run.of]] = (EACH,) if run.family == "loop" else EACH
    entry.validate(given)
    plain: Mapping[str, Any] = entry.schema(**given).model_dump(mode="json")
    shown: dict[str, Any] = {}
    if run.family != "loop":
        shown = {"sees": run.sees, "batch_size": run.batch_size}
        shown |= {"examples": run.examples} if run.sees == "inputs" else {}
    if run.below is not None:
        shown["below"] = run.below.model_dump(mode="json")
    return {**shown, **plain}
