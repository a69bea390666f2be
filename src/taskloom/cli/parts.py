"""``taskloom parts``: what tasks share and a small part for each, in place of an expert per task."""

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
@click.option("--method", required=True, help="emr, tall_masks or twin_merging.")
@options.settings
@options.output
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of what is written; else the base's.",
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
    """Merge experts into parts: what all tasks share, and for each task a mask or an exclusive part.

    emr and tall_masks write a shared vector and a bit per weight and task, and need the base again;
    twin_merging writes a shared model, and factors or sparse entries per task. 'taskloom restore' makes
    the model of a task of them again.
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
            **options.method_options(settings, taskloom.merge_parts),
        )
    if as_json:
        output.print_json(report)
        return
    base_too = f", with the base {report.bytes_stored / 1e6:.1f} MB" if report.bytes_base else ""
    lost = f"; relative error {max(report.errors.values()):.2g} at most" if report.errors else ""
    click.echo(
        f"{report.path}: {method} of {output.experts(len(sources))} ({report.composition}){lost}; "
        f"{(report.bytes_shared + report.bytes_tasks) / 1e6:.1f} MB{base_too}, "
        f"against {report.bytes_full / 1e6:.1f} MB of experts "
        f"({report.share:.0%}); {report.seconds:.1f} s"
    )
