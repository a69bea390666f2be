"""``taskloom report``: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output


@options.verb("report", example="taskloom report runs/mine")
@click.argument("run_folder", type=click.Path(path_type=Path))
@options.as_json
def command(run_folder: Path, as_json: bool) -> None:
    """Write the report of a finished run again and print where it is."""
    path = taskloom.report(run_folder)
    if as_json:
        output.print_json({"report": path})
        return
    click.echo(str(path))
