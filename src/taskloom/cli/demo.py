"""``taskloom demo``: run the built-in plan."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb("demo", example="taskloom demo --small -o runs/demo-small")
@click.option("--small", is_flag=True, help="scikit-learn data and a tiny model: no downloads.")
@click.option("-o", "--output", "output_path", type=click.Path(path_type=Path), help="The run folder.")
@options.as_json
def command(small: bool, output_path: Path | None, as_json: bool) -> None:
    """Run the built-in demo from a pool of experts to a report."""
    with listening() as progress:
        result = taskloom.demo(small=small, output=output_path, progress=progress)
    if as_json:
        output.print_json(result)
        return
    output.print_run(result)
