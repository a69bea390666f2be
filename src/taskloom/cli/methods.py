"""``taskloom methods``: list everything registered."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.errors import PlanError, UnknownName

if TYPE_CHECKING:
    from taskloom.runs.claims.suitable import Experts, Have


@options.verb("methods", example="taskloom methods merge")
@click.argument("family", required=False)
@click.option(
    "--have",
    type=click.Choice(["nothing", "unlabeled", "labels"]),
    help="Merging methods that need no more data than this beside the weights.",
)
@click.option(
    "--experts",
    type=click.Choice(["full", "lora", "one task"]),
    help="Merging methods meant for such experts: of different tasks, or of one task.",
)
@click.option("--parts/--no-parts", default=None, help="Whether a part for every task may be kept.")
@options.as_json
def command(
    family: str | None, have: Have | None, experts: Experts | None, parts: bool | None, as_json: bool
) -> None:
    """List everything registered: merging methods and steps, scores, training methods, metrics, sources.

    FAMILY limits the list to one of merge, step, score, train, metric, source, statistic.

    With --have, --experts or --no-parts only merging methods that fit are listed; what is not said is
    taken to be labels, full fine-tunes and parts.
    """
    from taskloom.registry import KINDS

    choosing = not (have is None and experts is None and parts is None)
    if choosing and family not in (None, "merge"):
        raise PlanError(
            f"--have, --experts and --parts choose among merging methods, and the family is {family!r}",
            hint="Leave the family out",
        )
    if family is not None and family not in KINDS:
        raise UnknownName("family", family, KINDS)
    found = taskloom.methods("merge" if choosing else family)
    if choosing:
        from taskloom.runs.claims.suitable import suitable

        fitting = suitable(have or "labels", experts or "full", parts=parts is not False)
        order = [entry.name for entry in fitting]
        found = sorted((m for m in found if m["name"] in order), key=lambda m: order.index(m["name"]))
    if as_json:
        output.print_json(found)
        return
    for name, members in groupby(found, key=lambda entry: str(entry["family"])):
        _print_family(f"{KINDS[name]}s ({name})", list(members))


def _print_family(title: str, members: list[dict[str, Any]]) -> None:
    merging = any(member["reads"] for member in members)
    columns = ["name", "what it does", *(["grain", "reads>"] if merging else []), "options"]
    rows = [
        [
            member["name"],
            member["summary"].replace("``", ""),
            *([member["grain"], member["reads"]] if merging else []),
            [_spelled(parameter) for parameter in member["parameters"]],
        ]
        for member in members
    ]
    output.print_table(title, columns, rows)


def _spelled(parameter: dict[str, Any]) -> str:
    name = parameter["name"]
    return f"{name} (required)" if parameter["required"] else f"{name}={parameter['default']}"
