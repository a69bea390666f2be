"""``taskloom verify``: check a merged model against its record and its sources."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb("verify", example="taskloom verify out/merged --all")
@click.argument("directory", metavar="PATH|URL", type=options.PLACE)
@click.option("--all", "everything", is_flag=True, help="Make every tensor again from the sources.")
@click.option(
    "--sample", type=click.IntRange(0), default=8, show_default=True, help="Else this many tensors."
)
@click.option("--threads", type=click.IntRange(1), help="Threads; else one per processor.")
@options.as_json
def command(
    directory: Path | str, everything: bool, sample: int, threads: int | None, as_json: bool
) -> None:
    """Check that a merged model's bytes are those that were written, and that its sources give them.

    Every file and tensor is held against its digest in taskloom.json; then tensors are made again
    from the sources and compared byte for byte. A folder of 'taskloom parts' is held against its
    parts.json, and made again with --all; what 'taskloom restore' wrote is made again from its parts.
    """
    with listening() as progress:
        found = taskloom.verify(
            directory, everything=everything, sample=sample, threads=threads, progress=progress
        )
    if as_json:
        output.print_json(found)
        return
    click.echo(
        f"{found.path}: {found.files} files and {found.tensors} tensors are as they were written; "
        f"{len(found.recomputed)} tensors made again from the sources are the same"
    )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
