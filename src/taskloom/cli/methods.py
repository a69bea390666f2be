"""``taskloom methods``: list everything registered."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.errors import UnknownName


@options.verb("methods", example="taskloom methods merge")
@click.argument("family", required=False)
@options.as_json
def command(family: str | None, as_json: bool) -> None:
    """List everything registered: merging methods and steps, scores, training methods, metrics, sources.

    FAMILY limits the list to one of merge, step, score, train, metric, source, statistic.
    """
    from taskloom.registry import KINDS

    if family is not None and family not in KINDS:
        raise UnknownName("family", family, KINDS)
    found = taskloom.methods(family)
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
