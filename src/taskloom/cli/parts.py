"""``taskloom parts``: one shared vector and a mask per task, in place of an expert per task."""

from __future__ import annotations

from pathlib import Path

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "parts",
    example=(
        "taskloom parts --base models/base --expert spam=out/spam --expert trec6=out/trec6 \\\n"
        "  --method emr -o out/parts"
    ),
)
@options.pool_options
@click.option("--method", required=True, help="emr or tall_masks.")
@options.settings
@options.output
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the shared vector; else the base's.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads; else one per processor.")
@options.allow_pickle
@options.as_json
def command(
    base: str,
    experts: tuple[str, ...],
    method: str,
    settings: tuple[str, ...],
    output_path: Path,
    force: bool,
    dtype: str | None,
    threads: int | None,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Merge experts into parts: a vector that all tasks share, a bit per weight and task.

    'taskloom restore' makes the model of a task of them and of the base again.
    """
    sources, names = options.named(experts)
    with listening() as progress:
        report = taskloom.merge_parts(
            base,
            sources,
            method,
            output_path,
            names=names,
            dtype=dtype,
            overwrite=force,
            allow_pickle=allow_pickle,
            threads=threads,
            progress=progress,
            **options.parsed(settings),
        )
    if as_json:
        output.print_json(report)
        return
    click.echo(
        f"{report.path}: {method} of {len(sources)} experts ({report.composition}); "
        f"{(report.bytes_shared + report.bytes_masks) / 1e6:.1f} MB, with the base "
        f"{report.bytes_stored / 1e6:.1f} MB, against {report.bytes_full / 1e6:.1f} MB of experts "
        f"({report.share:.0%}); {report.seconds:.1f} s"
    )
