"""``taskloom run``: carry out a plan."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb("run", example="taskloom run plan.yaml -o runs/mine")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("-o", "--output", "output_path", type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--guard",
    type=click.Choice(["strict", "warn"]),
    help="Instead of what the plan says; warn: hand over the best merge, whatever it loses to.",
)
@options.as_json
def command(plan: Path, output_path: Path | None, guard: str | None, as_json: bool) -> None:
    """Carry out a plan: select, train, merge, evaluate, guard, hand over, report.

    A second run of the same plan into the same folder does only what is new; an interrupted one
    goes on where it stopped.
    """
    with listening() as progress:
        result = taskloom.run(
            plan,
            output=output_path,
            guard=guard,  # type: ignore[arg-type]
            progress=progress,
        )
    if as_json:
        output.print_json(result)
        return
    output.print_run(result)
