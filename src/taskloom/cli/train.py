"""``taskloom train``: fine-tune one expert."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "train",
    example="taskloom train trec6 --base models/base --set steps=63 -o out/trec6",
)
@click.argument("task")
@options.base
@click.option("--method", default="full", show_default=True, help="full or lora.")
@options.settings
@options.output
@options.seed
@options.as_json
def command(
    task: str,
    base: str,
    method: str,
    settings: tuple[str, ...],
    output_path: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Train one expert of a base on one task: its head first, then the encoder.

    TASK is the name of a declared task or the path of an annotation. What is trained already is
    taken from the cache; what was interrupted is taken up where it stopped.
    """
    with listening() as progress:
        expert = taskloom.train(
            task,
            base,
            output=output_path,
            method=method,
            options=options.parsed(settings),
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json(expert)
        return
    how = "from the cache" if expert.cached else f"{expert.steps} steps in {expert.seconds:.0f} s"
    click.echo(f"{expert.directory}: {task}, {how}")
