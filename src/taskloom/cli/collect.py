"""``taskloom collect``: keep a statistic of an expert on its task."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "collect",
    example="taskloom collect fisher --model out/trec6 --task trec6 -o out/trec6-fisher.safetensors",
)
@click.argument("statistic")
@click.option("--model", required=True, metavar="PATH|HUB_ID", help="The expert.")
@click.option("--task", required=True, help="Its task, or the path of an annotation.")
@options.base_option("What it was tuned from.")
@click.option(
    "--against",
    multiple=True,
    metavar="NAME=PATH",
    help="Another expert of the pool, for statistics that compare; repeat for each.",
)
@options.settings
@options.output
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most training examples.",
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@options.seed
@options.as_json
def command(
    statistic: str,
    model: str,
    task: str,
    base: str | None,
    against: tuple[str, ...],
    settings: tuple[str, ...],
    output_path: Path,
    examples: int,
    batch_size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Collect a statistic of an expert on its task, for merges that need one.

    STATISTIC is fisher, gram, sensitivity or graft. Training examples of the task run through the
    expert; the file is given to the merge with --statistic NAME=FILE. The head is the expert's own,
    or fitted on the features of --base.
    """
    sources, names = options.named(against)
    if against and names is None:
        raise click.UsageError("--against needs the name the expert has in the merge: NAME=PATH")
    with listening() as progress:
        found = taskloom.collect(
            statistic,
            model,
            task,
            base=base,
            against=dict(zip(names or [], sources, strict=True)),
            options=options.parsed(settings),
            examples=examples,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        path = found.save(output_path)
    known = found.checkpoint.tensors
    if as_json:
        output.print_json({"path": str(path), "statistic": found.kind, **found.table})
        return
    size = sum(info.nbytes for info in known.values())
    click.echo(
        f"{path}: {found.kind} of {model} on {found.table['examples']} examples of {task}, "
        f"{len(known)} tensors, {size / 1e6:.1f} MB"
    )
